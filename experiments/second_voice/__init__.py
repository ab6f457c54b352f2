"""The second simulated annotator: the same facts of the synthetic world in other sentences, partly in other words."""
