"""A synthetic world whose truth is known: scenes, captions, an oracle, and the recipe of the tiny models."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'synthworld' is not a package of its own: import pseudoris.synthworld", name=__name__)
