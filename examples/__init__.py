"""Examples: configurations for `--config`, and the benchmark of a run on RefCOCO."""
