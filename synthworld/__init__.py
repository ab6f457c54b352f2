"""A synthetic world whose truth is known: scenes, their texts and an oracle. For `cli`, `pseudoris`, `evidence`.

A seed and an index give the same scene and pixels on every machine.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import synthworld` in the root of a clone would load a second copy of every module.
    raise ImportError("'synthworld' is not a package of its own: import pseudoris.synthworld", name=__name__)
