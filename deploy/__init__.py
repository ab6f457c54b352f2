"""What a cluster needs in addition to the package: entry script of submitted jobs, container, manifests, dashboards."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'deploy' is not a package of its own: import pseudoris.deploy", name=__name__)
