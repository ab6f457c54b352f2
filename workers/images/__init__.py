"""From encoded bytes to pixels and crops. Imports nothing itself, so that the proving process starts without torch."""
