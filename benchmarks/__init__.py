"""What is fast, against what: both sides in one run, median of several, as a ratio, with peak memory."""
