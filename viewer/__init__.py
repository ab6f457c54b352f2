"""A run as web pages, read from its tables through the store. Called by `pseudoris gallery`, `audit` and examples.

A page loads only the pictures beside it. Texts and pictures are untrusted.
"""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'viewer' is not a package of its own: import pseudoris.viewer", name=__name__)
