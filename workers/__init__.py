"""The models and stages of a run, in plain torch; `pipeline` runs them in its actors; other rooms use single modules.

No module here may import Ray, so that models can be imported and benchmarked without a cluster.
"""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'workers' is not a package of its own: import pseudoris.workers", name=__name__)
