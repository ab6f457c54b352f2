"""What writes a run: one session of work, its executor without Ray, and a run that is filtered anew."""
