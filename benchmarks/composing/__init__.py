"""How right composed expressions are, by the oracle, and how much they add: `python -m benchmarks.composing`."""
