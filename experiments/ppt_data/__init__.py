"""How good PPT's pseudo-labels are on the synthetic world, where the truth is known."""
