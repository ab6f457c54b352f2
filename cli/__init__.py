"""The command line, one module a command. Started by `pseudoris.__main__` and `deploy/job_entry`.

A command imports Ray, torch and what it alone needs in its function, so that `--help` and other commands do not wait.
Of the other rooms only `pseudoris` imports it, for its progress bar.
"""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import cli` would find this folder and load a second copy of every module.
    raise ImportError("'cli' is not a package of its own: import pseudoris.cli", name=__name__)
