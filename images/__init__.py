"""From encoded bytes to upright pixels: formats, limits, and the child process that proves that an image decodes.

Imports no torch, so that a child starts fast. Stands on `schemas` and `primitives`; called by every room that decodes.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import images` in the root of a clone would load a second copy of every module.
    raise ImportError("'images' is not a package of its own: import pseudoris.images", name=__name__)
