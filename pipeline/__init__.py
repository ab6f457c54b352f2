"""The job on Ray: plan, the Ray Data graph of stage actors, commit and resume. The only room that imports Ray.

`cli` and the public API call it. It knows nothing of them, and leaves the promises about files to `store`.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import pipeline` in the root of a clone would load a second copy of every module.
    raise ImportError("'pipeline' is not a package of its own: import pseudoris.pipeline", name=__name__)

from pseudoris.primitives.untrusted import mask_logs

# Every process of a run imports this room before it works, so all of its logs hide the secrets in urls.
mask_logs()
