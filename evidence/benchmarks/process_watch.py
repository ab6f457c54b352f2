"""Watches processes from outside while they work: their memory and CPU time, and those of the Ray head they started.

`SideProcess` (end_to_end, masks) is one for a side of a comparison, under environment variables that glibc reads at its
start. memory, scale and first_result watch whole runs; `examples.step_log` sums processes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import PurePath
from typing import Any, Final

import psutil

from evidence.recipes.child_environment import child_environment

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


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes of one name at the first commit.

    Attributes:
        name: What they run.
        count: How many.
        began_s: Seconds from the start of the command to that of the first of them.
        cpu_s: CPU seconds of all together.
        pss_bytes: Their proportional set size: a page that n processes share counts as 1/n. Where the system does not
            tell it, the resident size.
    """

    name: str
    count: int
    began_s: float
    cpu_s: float
    pss_bytes: int


def process_groups(command: psutil.Process) -> Iterator[ProcessGroup]:
    """Yield what `command` and its living descendants have used, grouped by name, in the order of their start."""
    began, usages = command.create_time(), dict[str, list[tuple[float, float, int]]]()
    for process in (command, *command.children(recursive=True)):
        # It may end while it is read.
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            spent = process.cpu_times()
            name = "the command" if process == command else process_name(process.cmdline())
            usages.setdefault(name, []).append(
                (process.create_time() - began, spent.user + spent.system, getattr(memory, "pss", memory.rss))
            )
    for name, found in sorted(usages.items(), key=lambda each: min(each[1])):
        starts, cpu, sizes = zip(*found, strict=True)
        yield ProcessGroup(name, len(found), min(starts), sum(cpu), sum(sizes))
    spent = command.cpu_times()
    yield ProcessGroup("ended", 0, 0.0, spent.children_user + spent.children_system, 0)


def process_name(words: list[str]) -> str:
    """Return what a process runs, from its command line: the module, the script, Ray's title, or the program."""
    if not words:
        return "ended"
    if words[0].startswith("ray::"):
        # Ray's title of a worker is one word that names what it does now.
        return words[0]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    scripts = (word for word in words[1:] if word.endswith(".py"))
    program = next(scripts, words[0] or PurePath(sys.executable).name)
    # The folder too: Ray has several scripts of the name agent.py.
    return "/".join(re.split(r"[\\/]", program)[-2:])


_SIDE_PERIOD_S: Final = 0.2
_held: Any = None


class SideProcess:
    """A process that builds one object, models and all, and calls its methods."""

    def __init__(self, environment: Mapping[str, str], build: Callable[..., Any], *given: Any, **named: Any) -> None:
        """Start it and return once `build(*given, **named)` is done there; all of them must pickle."""
        self._pool = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_hold, initargs=(partial(build, *given, **named),)
        )
        with child_environment(environment):
            self._process = psutil.Process(self._pool.submit(os.getpid).result())

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """Return what a method of the object returns."""
        return self._pool.submit(_call, method, given, named).result()

    def watched(self, method: str, *given: Any) -> tuple[Any, int]:
        """Return what a method returns, and the process's highest proportional set size meanwhile, in bytes."""
        future = self._pool.submit(_call, method, given, {})
        peak = self._pss_bytes()
        while not future.done():
            wait([future], timeout=_SIDE_PERIOD_S)
            peak = max(peak, self._pss_bytes())
        return future.result(), peak

    def _pss_bytes(self) -> int:
        """Return what the process holds now: a page that n processes share counts as 1/n."""
        return int(self._process.memory_full_info().pss)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _hold(build: Callable[[], Any]) -> None:
    global _held
    _held = build()


def _call(method: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return getattr(_held, method)(*given, **named)
