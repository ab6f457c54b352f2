"""A run as web pages, read from its tables through the store. Called by `pseudoris gallery`, `audit` and examples.

A page loads only the pictures beside it. Texts and pictures are untrusted.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import viewer` in the root of a clone would load a second copy of every module.
    raise ImportError("'viewer' is not a package of its own: import pseudoris.viewer", name=__name__)
