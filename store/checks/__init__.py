"""`verify`, for `cli`, `pipeline`, users: files against receipts, rows against schemas and rules. It changes none."""
