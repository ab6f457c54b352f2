"""What `pseudoris verify` checks: files against receipts, rows against schemas, expressions against rules."""
