"""What reads the tables of a run: exports today; datasets, metrics and learners live here too."""
