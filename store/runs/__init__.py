"""One run: header, plan, lock, receipts, commits, manifest; planning, resuming, refiltering and garbage collection."""
