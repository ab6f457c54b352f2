"""Starts and ends child processes that may die, and keeps library output out of their answers.

Called by `prover.py` and by `workers`. A child must end when its standard input ends: it never outlives its parent.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

# Only another process, or a machine without free memory, sends these signals. No image causes them.
EXTERNAL_SIGNALS: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_STATM: Final = Path("/proc/self/statm")


def start_child(
    module: str, *words: str, environment: Mapping[str, str] = {}, is_buffered: bool = True, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m module *words` with pipes for its standard input and output.

    `environment` is added to the variables of this process. Without `is_buffered` the pipes are raw, so they can be
    polled. `stderr` is that of `subprocess.Popen`.
    """
    # The child gets the parent's import path, because the package may be on that path without being installed.
    search_path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=-1 if is_buffered else 0,
        env={**os.environ, "PYTHONPATH": search_path, **environment},
        # A child in its own session gets no Ctrl-C from the terminal. It ends when its standard input ends.
        start_new_session=True,
    )


def end_child(child: subprocess.Popen[bytes], *, timeout_s: float, is_hung: bool = False) -> int:
    """Close the child's pipes and reap it, killed if it `is_hung` or too slow; return its status (-9 for SIGKILL)."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            # Closing a pipe also sends the data that is left in its buffer. This fails if the child is dead.
            with suppress(BrokenPipeError):
                stream.close()
    if is_hung:
        child.kill()
    try:
        # A child that is already ending is not killed, because its own exit status says why it ended.
        return child.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def is_external_signal(status: int) -> bool:
    """Return whether an exit status (a signal as a negative number) is a signal that only comes from outside."""
    return -status in EXTERNAL_SIGNALS


def address_space_bytes() -> int:
    """Return the size of this process's address space; 0 if the system does not report it."""
    try:
        return int(_STATM.read_bytes().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def limit_memory(start_bytes: int, extra_bytes: int) -> None:
    """Let this child's address space grow to `extra_bytes` above `start_bytes`, as `address_space_bytes` gave them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core files: a hostile folder must not fill the disk with them
    if start_bytes:  # only Linux reports a process's size and enforces the limit
        lower_limit(resource.RLIMIT_AS, start_bytes + extra_bytes)


def lower_limit(limit: int, wanted: int) -> None:
    """Set the soft limit of a resource of this process to `wanted`, or to the hard limit if that is lower."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def reserve_stdout() -> tuple[BinaryIO, BinaryIO]:
    """Return this process's standard input, and its standard output reserved for answers.

    Output of libraries goes to standard error from now on. If the parent has ended, this process ends without a
    traceback.
    """
    sys.excepthook = lambda kind, error, trace: (
        None if issubclass(kind, BrokenPipeError) else sys.__excepthook__(kind, error, trace)
    )
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin.buffer, answers
