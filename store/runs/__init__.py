"""One run, for all that write or read one: plan, lock, commits, manifest, gc. Receipts alone decide what counts."""
