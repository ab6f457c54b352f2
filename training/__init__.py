"""What learns from a run's tables, and what measures them: learners, evaluations, calibration, metrics."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'training' is not a package of its own: import pseudoris.training", name=__name__)
