"""Learners that read a run's tables, and what measures them: evaluations, calibration. For `cli`, users, experiments.

A run is read by its receipts and never changed. No Ray here.
"""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import training` would find this folder and load a second copy of every module.
    raise ImportError("'training' is not a package of its own: import pseudoris.training", name=__name__)
