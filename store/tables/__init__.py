"""The tables of a run: what a shard writes, and how committed rows are read."""
