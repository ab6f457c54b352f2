"""Looking at a run: one self-contained HTML page, read from tables through the store."""
