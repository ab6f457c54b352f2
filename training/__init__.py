"""Users of a run's tables: datasets, exports, imports, metrics and learners."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'training' is not a package of its own: import pseudoris.training", name=__name__)
