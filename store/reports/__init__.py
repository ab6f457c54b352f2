"""What `cli`, `viewer` and each session tell of a run: statistics, status, data card. A report changes no table."""
