"""How a room other than the pipeline writes a run: planned, made, committed shard by shard, as any run is. No Ray."""
