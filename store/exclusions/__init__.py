"""What a run leaves out: the rules and their matcher, and a run's own rules beside its plan."""
