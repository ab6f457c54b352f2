"""The job: sources, plan, the Ray Data graph of stage actors, commit and resume. The only room that imports Ray."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'pipeline' is not a package of its own: import pseudoris.pipeline", name=__name__)

from pseudoris.schemas.untrusted import mask_logs

# Here, because the driver and every process of Ray import it before they work: their logs repeat no secret of a url.
mask_logs()
