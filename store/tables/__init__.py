"""The tables of a run, for most rooms: writers (equal shard, equal bytes) and readers of committed rows."""
