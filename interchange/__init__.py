"""What others read of a run, and what becomes one: datasets for torch, exports, imports, exclusions."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'interchange' is not a package of its own: import pseudoris.interchange", name=__name__)
