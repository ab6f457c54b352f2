"""The student that ships: it chooses, for an expression, one of the masks that SAM proposes."""
