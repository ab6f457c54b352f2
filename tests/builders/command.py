"""The command line in a process of its own, as a user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NUM_SCENES = 5
# Shards of three: several of them, so that order and resume mean something.
OPTIONS = ("--shard-size", "3", "--address", "local")


@dataclass(frozen=True)
class TinyRun:
    """A source folder, the output beside it, and what the command printed."""

    source: Path
    out: Path
    printed: subprocess.CompletedProcess[str]


def pseudoris(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed, wide enough that no line is folded."""
    return subprocess.run(_command(arguments), capture_output=True, text=True, check=False, cwd=cwd, env=_environment())


def start_pseudoris(*arguments: str) -> subprocess.Popen[str]:
    """Start the command and return its process, to be sent a signal; its output is piped."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        _command(arguments), stdout=pipe, stderr=pipe, text=True, env=_environment(), preexec_fn=_obey_interrupts
    )


def _obey_interrupts() -> None:
    # Shells start what runs in the background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Return once `condition` holds; raise TimeoutError where it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.02)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "cli", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "400", "PYTHONPATH": str(Path(__file__).parents[2])}
