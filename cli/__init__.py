"""The command line: one small module a command, and nothing that another room would want to import.

A command imports in its function what it alone needs, such as Ray and torch: `--help`, a mistyped option and other
commands do not wait for it.
"""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'cli' is not a package of its own: import pseudoris.cli", name=__name__)
