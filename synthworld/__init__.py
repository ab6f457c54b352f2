"""A synthetic world whose truth is known: scenes, captions, an oracle, and the recipe of the tiny models."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'synthworld' is not a package of its own: import pseudoris.synthworld", name=__name__)
