"""A run on storage: plan, parts, receipts, commit and lock, and all code that reads committed data.

This package keeps the durability promises. It imports neither torch nor Ray.
"""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("import pseudoris.store: 'store' alone is no package", name=__name__)
