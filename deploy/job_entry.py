"""`pseudoris annotate` on the cluster that this process runs on: what `ray submit` and `ray job submit` start.

Nodes that have the package start it as `python -m pseudoris.deploy.job_entry`. `ray submit` uploads only this file, so
it imports no module of pseudoris before it can report that the package is missing.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Final

USER_MUST_MEND: Final = 2

MISSING: Final = """error: {problem}, for {python} on {host}.
This script starts pseudoris but does not install it. Install the wheel for this Python on every node. ray_cluster.yaml
(`setup_commands`) and deploy/Dockerfile show how. Or send the wheel with the job:
  ray job submit --runtime-env-json '{{"py_modules": ["dist/pseudoris-….whl"]}}' -- \\
      python -m pseudoris.deploy.job_entry SOURCE OUT …"""


def main(arguments: Sequence[str]) -> None:
    """Run `annotate` with `arguments` and `--address auto`, and exit with the exit code of the command.

    Args:
        arguments: Those of `pseudoris annotate`; an `--address` among them overrides `auto`.
    """
    try:
        from pseudoris.cli.main import main as command
    except ImportError as error:
        sys.stderr.write(MISSING.format(problem=error, python=sys.executable, host=platform.node()) + "\n")
        sys.exit(USER_MUST_MEND)
    # `--address auto` comes first, so that an `--address` of the user wins: the last value of an option counts.
    sys.argv = ["pseudoris", "annotate", "--address", "auto", *arguments]
    command()


if __name__ == "__main__":
    main(sys.argv[1:])
