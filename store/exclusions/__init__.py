"""Images that a run leaves out, for planning, reading, exports and datasets. The rules of a run are frozen."""
