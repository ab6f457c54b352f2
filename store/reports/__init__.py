"""Reports on a run: its statistics, its status and its data card."""
