"""What the processes of a run have used: CPU and memory, by what they run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

import psutil


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
