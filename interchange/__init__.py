"""What others read of a run, and what becomes one: datasets for torch, exports, imports, exclusions."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'interchange' is not a package of its own: import pseudoris.interchange", name=__name__)
