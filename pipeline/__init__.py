"""The job on Ray: plan, the Ray Data graph of stage actors, commit and resume. The only room that imports Ray.

`cli` and the public API call it. It knows nothing of them, and leaves the promises about files to `store`.
"""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'pipeline' is not a package of its own: import pseudoris.pipeline", name=__name__)

from pseudoris.schemas.untrusted import mask_logs

# The driver and every Ray process import this room before they work. Their logs then hide secrets of urls.
mask_logs()
