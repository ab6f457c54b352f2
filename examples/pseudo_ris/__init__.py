"""The tables of Pseudo-RIS, each in one command: annotate, train, evaluate, a page beside the published row."""
