"""What writes a run, for most rooms: a session of work, its executor without Ray, and a run that is filtered anew."""
