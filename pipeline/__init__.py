"""The job: sources, plan, the Ray Data graph of stage actors, commit and resume. The only room that imports Ray."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("import pseudoris.pipeline: 'pipeline' alone is no package", name=__name__)
