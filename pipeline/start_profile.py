"""Where the time before a run's first commit goes: the driver's steps, the work of Ray's workers, and every process."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

import psutil
import ray

from pseudoris.store.runs.events import Committed, OnEvent, Planned, Retried, RunEvent, Step

_MICROSECONDS: Final = 1e-6
# Ray's record of a task or of an actor's method; it names other spans of a worker without the second colon.
_TASK: Final = "task::"
# Ray Data's own actors are asked several times a second.
_SHORTEST_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Attributes:
        name: What was done.
        began_s: Seconds since the command began.
        took_s: Seconds.
    """

    name: str
    began_s: float
    took_s: float


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


@dataclass(frozen=True, slots=True)
class StartReport:
    """The start of a run, up to its first commit.

    Attributes:
        first_commit_s: Seconds from the start of the command to the first commit.
        steps: Of the driver, in order; they fill the time without gaps.
        tasks: Of Ray's workers on all nodes, in order, those of a tenth of a second and more. Ray reports the last
            second late, so the commit may be missing.
        processes: Of this machine, in the order of their start. `ended` are children that are gone.
    """

    first_commit_s: float
    steps: tuple[Span, ...]
    tasks: tuple[Span, ...]
    processes: tuple[ProcessGroup, ...]


class StartProfile:
    """Follows the events of a run; `report` is None until its first commit."""

    def __init__(self, on_event: OnEvent) -> None:
        """Hand each event on to `on_event`."""
        self.report: StartReport | None = None
        self._on_event = on_event
        self._command = psutil.Process()
        self._steps: list[tuple[str, float]] = [("start of Python, imports", 0.0)]

    def on_event(self, event: RunEvent) -> None:
        """Note when `event` came."""
        if self.report is None:
            if isinstance(event, Step):
                self._steps.append((event.name, self._now_s()))
            elif isinstance(event, Planned):
                self._steps.append(("workers, models, the first shard", self._now_s()))
            elif isinstance(event, Committed | Retried):
                self.report = self._reported()
        self._on_event(event)

    def _now_s(self) -> float:
        return time.time() - self._command.create_time()

    def _reported(self) -> StartReport:
        end_s = self._now_s()
        ends = [*(began_s for _, began_s in self._steps[1:]), end_s]
        steps = (Span(name, began_s, until - began_s) for (name, began_s), until in zip(self._steps, ends, strict=True))
        return StartReport(end_s, tuple(steps), self._tasks(), tuple(process_groups(self._command)))

    def _tasks(self) -> tuple[Span, ...]:
        began = self._command.create_time()
        events: list[dict[str, Any]] = ray.timeline() or []
        spans = [
            Span(event["cat"].removeprefix(_TASK), event["ts"] * _MICROSECONDS - began, event["dur"] * _MICROSECONDS)
            for event in events
            if event.get("ph") == "X" and event["cat"].startswith(_TASK) and event["dur"] * _MICROSECONDS >= _SHORTEST_S
        ]
        return tuple(sorted(spans, key=lambda span: span.began_s))


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
