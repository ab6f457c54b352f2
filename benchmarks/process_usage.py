"""A process watched from outside while it works: its memory and CPU time, and those of the Ray head that it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_PERIOD_S: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# What a driver that starts Ray also starts, and what on a cluster the head node pays for.
_HEAD_NAMES: Final = frozenset({"gcs_server", "raylet"})


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had at a moment: resident bytes, and seconds of CPU since its start."""

    rss_bytes: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading, `time.monotonic` of it, of the process and of Ray's own processes below it."""

    at_s: float
    driver: Usage
    head: Usage


@dataclass(slots=True)
class Watched:
    """What a process answered, and the readings taken of it.

    Attributes:
        answer: The JSON of its last line.
        samples: In time.
    """

    answer: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """Return the readings of a span; never none: the nearest one where it was shorter than the period."""
        inside = [sample for sample in self.samples if start_s <= sample.at_s <= end_s]
        return inside or [min(self.samples, key=lambda sample: abs(sample.at_s - start_s))]


def run_watched(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Watched:
    """Run `python -m module` to its end, and return its answer and how it grew.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True) as process:
        samples: list[Sample] = []
        watcher = threading.Thread(target=_watch, args=(process, samples), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(json.loads(output.splitlines()[-1]), samples)


def _watch(process: subprocess.Popen[str], samples: list[Sample]) -> None:
    while process.poll() is None:
        try:
            samples.append(_sample(process.pid))
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(_PERIOD_S)


def _sample(pid: int) -> Sample:
    head = [usage(child) for child in _children(pid) if _name(child) in _HEAD_NAMES]
    return Sample(
        time.monotonic(),
        usage(pid),
        Usage(sum(one.rss_bytes for one in head), sum(one.cpu_s for one in head)),
    )


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listing.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            # A thread that has ended since it was listed.
            continue
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def usage(pid: int) -> Usage:
    """Return what a living process has now."""
    # Fields after the name, which stands in parentheses and may hold anything: utime and stime, then pages at 21.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage(int(fields[21]) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)
