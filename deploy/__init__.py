"""What a cluster needs beside the package: the entry script of submitted jobs, container, manifests, dashboards.

`ray job submit` starts `job_entry`. No room imports this folder, and its manifests start the same commands as a user.
"""

if not __name__.startswith("pseudoris."):
    # Without this, `import deploy` in the root of a clone would load a second copy of every module.
    raise ImportError("'deploy' is not a package of its own: import pseudoris.deploy", name=__name__)
