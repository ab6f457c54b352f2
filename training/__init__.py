"""What learns from a run's tables, and what measures them: learners, evaluations, calibration, metrics."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'training' is not a package of its own: import pseudoris.training", name=__name__)
