"""Watches processes from outside while they work: their memory and CPU time, and those of the Ray head they started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import Any, Final

import psutil

_PERIOD_S: Final = 0.1
_PERIOD_WITH_WORKERS_S: Final = 0.5
# What a driver that starts Ray also starts, and what on a cluster the head node pays for.
_HEAD_NAMES: Final = frozenset({"gcs_server", "raylet"})


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had at a moment.

    Attributes:
        rss_bytes: Resident.
        cpu_s: Seconds of CPU since its start.
        private_bytes: Resident, without files and shared memory. Every worker maps Ray's object store, page by page as
            it touches them: the sum of `rss_bytes` over workers counts a page of it as often.
    """

    rss_bytes: int = 0
    cpu_s: float = 0.0
    private_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading, `time.monotonic` of it, of the process and of Ray's own below it, and of workers that are watched."""

    at_s: float
    driver: Usage
    head: Usage
    workers: Usage = Usage()


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


def run_watched(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], *, has_workers: bool = False
) -> Watched:
    """Run `python -m module` to its end, and return its answer and how it grew; with `has_workers`, its workers too.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True) as process:
        samples: list[Sample] = []
        watcher = threading.Thread(target=_watch, args=(process, samples, has_workers), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(json.loads(output.splitlines()[-1]), samples)


def _watch(process: subprocess.Popen[str], samples: list[Sample], has_workers: bool) -> None:
    watched, heads = psutil.Process(process.pid), list[psutil.Process]()
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            if len(heads) < len(_HEAD_NAMES):
                heads = [child for child in watched.children() if _name(child) in _HEAD_NAMES]
            workers = [worker for head in heads for worker in descendants(head.pid)] if has_workers else []
            samples.append(Sample(time.monotonic(), usage(watched), total(heads), total(workers)))
        # The search for workers reads every process of the machine.
        time.sleep(_PERIOD_WITH_WORKERS_S if has_workers else _PERIOD_S)


def total(processes: Iterable[psutil.Process]) -> Usage:
    """Return what those of the processes that still live have together."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(usage(process))
    return Usage(*(sum(values) for values in zip(*map(astuple, found), strict=True))) if found else Usage()


def descendants(pid: int) -> list[psutil.Process]:
    """Return the living processes that a process has started, theirs too; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def usage(process: psutil.Process) -> Usage:
    """Return what a process has now.

    Raises:
        psutil.NoSuchProcess: It has ended.
    """
    with process.oneshot():
        memory, spent = process.memory_info(), process.cpu_times()
    return Usage(memory.rss, spent.user + spent.system, memory.rss - memory.shared)
