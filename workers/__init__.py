"""The models and stages of a run, in plain torch; `pipeline` runs them in its actors; other rooms use single modules.

No module here may import Ray, so that models can be imported and benchmarked without a cluster.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import workers` in the root of a clone would load a second copy of every module.
    raise ImportError("'workers' is not a package of its own: import pseudoris.workers", name=__name__)
