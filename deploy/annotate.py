"""`pseudoris annotate` on the cluster that this process runs on: the script of `ray submit` and `ray job submit`.

`ray submit` uploads this one file and nothing else, so it imports nothing of ours before it can say what is missing.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Final

USER_MUST_MEND: Final = 2

MISSING: Final = """error: {problem}, for {python} on {host}.
This script starts pseudoris and does not bring it along. Install the package for this Python on every node:
`setup_commands` of ray_cluster.yaml do so with `ray up`; by hand it is `pip install` of the wheel. Or bring the source
with the job: `ray job submit --working-dir . -- python deploy/annotate.py SOURCE OUT …` from a clone."""


def main(arguments: Sequence[str]) -> None:
    """Run `annotate` with `arguments` and `--address auto`; exits with the command's own code.

    Args:
        arguments: Those of `pseudoris annotate`; an `--address` among them wins.
    """
    try:
        from cli.main import main as command
    except ImportError as error:
        sys.stderr.write(MISSING.format(problem=error, python=sys.executable, host=platform.node()) + "\n")
        sys.exit(USER_MUST_MEND)
    # In front: of an option that is given twice the last one counts.
    sys.argv = ["pseudoris", "annotate", "--address", "auto", *arguments]
    command()


if __name__ == "__main__":
    main(sys.argv[1:])
