"""What a cluster needs in addition to the package: entry script of submitted jobs, container, manifests, dashboards."""

if not __name__.startswith("pseudoris."):
    # From a clone's root Python would find the folder, and run a second copy of every module.
    raise ImportError("'deploy' is not a package of its own: import pseudoris.deploy", name=__name__)
