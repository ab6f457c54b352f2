"""What reads the tables of a run: datasets, exports, imports, metrics and learners."""
