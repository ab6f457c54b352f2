"""The command line in a process of its own, as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
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
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
