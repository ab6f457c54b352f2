"""Measures PPT's pseudo-labels on the synthetic world, where the truth is known."""
