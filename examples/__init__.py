"""Examples: configurations for `--config`, and benchmarks by commands of `pseudoris`; README.md lists them.

`photographs`, `pseudo_ris` and `ppt` are commands; `cutler_instances.py` writes a table for `annotate`. `step_log` runs
the steps of all three: a finished step is not run again, and is refused where other words made it. `results_table`
writes the page of a paper's table beside published.json; `refer_splits` finds what both papers ask: never split train.
"""
