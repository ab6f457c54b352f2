"""A run on storage: plan, parts, receipts, commit and lock, and all code that reads committed data.

Called by `pipeline` and all rooms that read runs. It keeps the durability promises, and imports neither torch nor Ray.
"""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import store` would find this folder and load a second copy of every module.
    raise ImportError("'store' is not a package of its own: import pseudoris.store", name=__name__)
