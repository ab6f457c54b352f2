"""The recipe that trains the tiny SAM, CoCa and CLIP on rendered scenes."""
