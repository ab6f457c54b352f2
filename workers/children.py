"""Child processes that may die: how one is started, and how it keeps its answers apart from what libraries print."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import BinaryIO, Final

# Signals that come from outside: a machine that is short of memory or going away. No image sends them.
FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


def start_child(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, is_buffered: bool = True
) -> subprocess.Popen[bytes]:
    """Start `python -m module` with pipes for its standard input and output.

    Args:
        module: It ends when its standard input does, so that it does not outlive its parent.
        arguments: For it.
        environment: Laid over that of this process.
        is_buffered: Whether the pipes' ends are buffered files here; raw ones can be polled.
    """
    # The child finds what the parent has found, also where the package is on the path without being installed.
    search_path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=-1 if is_buffered else 0,
        env={**os.environ, "PYTHONPATH": search_path, **(environment or {})},
        # Ctrl-C is the parent's to handle: the child ends with its standard input.
        start_new_session=True,
    )


def is_from_outside(status: int) -> bool:
    """Return whether an exit status, a signal as a negative number, was somebody else's doing."""
    return -status in FROM_OUTSIDE


def take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return this process's standard input, and its standard output for answers alone.

    What a library prints from now on goes to the error stream and cannot tear an answer.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin.buffer, answers
