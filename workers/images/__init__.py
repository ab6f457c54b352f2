"""From encoded bytes to pixels and crops; import-free, so that the proving process starts without torch."""
