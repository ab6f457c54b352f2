"""Starts the command line: the installed script `pseudoris` and `python -m pseudoris` call `main`.

A signal during the imports ends the process at once, with one line: nothing has begun.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A signal that is ignored must stay ignored: a shell starts background jobs with Ctrl-C ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_at_once)
    try:
        from pseudoris.cli.main import main as run
    except ModuleNotFoundError as error:
        # In a clone's root Python takes the clone's own `pseudoris`, whose dependencies may not be installed.
        is_ours = str(error.name).partition(".")[0] == "pseudoris"
        if is_ours or not (Path(__file__).parents[1] / "Makefile").exists():
            raise
        sys.stderr.write(f"error: no module {error.name} for this clone: run `make install`, or use another folder\n")
        sys.exit(2)
    try:
        run()
    finally:
        # The handlers are set again, because a second Ctrl-C while Python ends would print a traceback.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # An exception would run code of half-imported libraries, so the process ends at once.
    os.write(2, b"stopped before anything was done\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
