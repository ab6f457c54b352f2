"""Runs the loaders of other projects' trainers on exports: what of the tables each of them gives to its model."""
