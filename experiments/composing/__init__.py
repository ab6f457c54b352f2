"""How right composed expressions are, by the oracle, and how much they add; counted for the part `composition`."""
