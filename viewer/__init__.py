"""Looking at a run: a folder of pages for a browser, read from tables through the store."""
