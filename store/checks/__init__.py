"""`verify`, for `cli` and `pipeline`: files against receipts, rows against schemas and rules. It changes no file."""
