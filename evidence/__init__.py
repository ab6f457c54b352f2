"""What proves the rooms: benchmarks (speed), experiments (quality), recipes (what made the tiny models)."""
