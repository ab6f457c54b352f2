"""This machine's limits that can end a run: files, processes, memory, disk. For `cli`, `pipeline`, `files` and `store`.

A process that a limit ends can often say nothing. So `doctor` and every start of Ray ask before, the lock of a run
records what is in force, and an error that a limit caused must name limit, value and remedy.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pseudoris.primitives.errors import ConfigError

_GIB: Final = 2**30
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMORY_GROUPS: Final = ("memory.max", "memory/memory.limit_in_bytes")
# Name, limit, files of cgroup v2 and v1, the least for a Ray on this machine, and what raises it. Source: measured, 63
# images with one actor: with 64 open files Ray ends the driver without a word, with 128 it works. Threads count as
# processes: a Ray has 180 and 23 for each of its workers.
_COUNTS: Final = (
    ("open files", resource.RLIMIT_NOFILE, (), 256, "ulimit -n"),
    ("processes", resource.RLIMIT_NPROC, ("pids.max", "pids/pids.max"), 1_024, "ulimit -u, or the container's pids"),
)
# These functions of the standard library fork. In all others EAGAIN means a full pipe, not a limit of processes.
_FORKS: Final = frozenset({"_execute_child", "_posix_spawn", "_launch", "spawnv_passfds"})
SHARED: Final = "/dev/shm"
# Maps a folder to the bytes that should be free, and to the remedy. Ray keeps logs in the temporary folder.
_FOLDERS: Final = {
    "temporary": (_GIB // 4, "free space, or set RAY_TMPDIR to a folder of another disk"),
    "shared": (_GIB // 2, "give the container more (docker run --shm-size=4g)"),
}


class Limit(NamedTuple):
    """A limit: its name, its value for a person, what to do if it is too low, and whether it is."""

    name: str
    value: str
    remedy: str
    is_low: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


def machine_limits(**folders: str) -> list[Limit]:
    """Return the limits of files, processes and memory in this process, then the free space of `folders`.

    Keywords of folders: `temporary`, Ray's folder for temporary files, and `shared`, that of its object store.
    """
    found = []
    for name, number, groups, least, remedy in _COUNTS:
        value = _lowest(resource.getrlimit(number)[0], groups)
        is_low = value is not None and value < least
        text = "unlimited" if value is None else f"{value:,}"
        found.append(Limit(name, text, f"raise it ({remedy}), at least to {least:,}", is_low))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = _lowest(total, _MEMORY_GROUPS) or total
    whose = " of the container" if memory < total else ""
    found.append(Limit("memory", f"{memory / _GIB:.1f} GiB{whose}", "give more, or use fewer actors"))
    for name, folder in folders.items():
        if Path(folder).is_dir():
            least, remedy = _FOLDERS[name]
            free = shutil.disk_usage(folder).free
            found.append(Limit(f"free in {folder}", f"{free / _GIB:.2f} GiB", remedy, is_low=free < least))
    return found


def check_limits(**folders: str) -> str:
    """Return the limits in force as text; ConfigError if one is too low for a Ray on this machine."""
    found = machine_limits(**folders)
    # Too little shared memory, such as a container's 64 MiB, only slows a run down, so it is a hint and no error.
    slow = [limit for limit in found if limit.is_low and limit.name == f"free in {folders.get('shared')}"]
    if low := [limit for limit in found if limit.is_low and limit not in slow]:
        raise ConfigError("; ".join(f"{limit} is too low for Ray on this machine: {limit.remedy}" for limit in low))
    hints = [f". With so little, Ray keeps blocks on the disk, which is slow: {limit.remedy}" for limit in slow]
    return ", ".join(map(str, found)) + "".join(hints)


def told_by_limit(error: BaseException) -> str | None:
    """Return an error of this machine's limits as a sentence with limit, value and remedy; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}): free space, then run the same command again"
    files, processes, memory = machine_limits()
    calls = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if number in (errno.EMFILE, errno.ENFILE):
        limit = files
    elif (number == errno.EAGAIN and not _FORKS.isdisjoint(calls[-1:])) or "start new thread" in str(error):
        limit = processes
    elif number == errno.ENOMEM or isinstance(error, MemoryError):
        limit = memory
    else:
        return None
    return f"{error}: this machine's limit is reached. {limit}: {limit.remedy}, then run the same command again"


def _lowest(limit: int, groups: Sequence[str]) -> int | None:
    """Return the lower of a limit and of what the control groups of a container allow; None if there is none."""
    values = [limit]
    for group in groups:
        # A file that is missing, has no number, or cannot be opened for lack of a file descriptor sets no limit.
        with suppress(OSError, ValueError):
            values.append(int((_CGROUPS / group).read_bytes()))
    # Values outside these bounds mean "no limit": cgroup v1 gives a number near 2**63, and `getrlimit` gives -1.
    return min((value for value in values if 0 <= value < 2**60), default=None)
