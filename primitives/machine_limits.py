"""This machine's limits that can end a run: files, processes, memory, disk. For `cli`, `pipeline`, `files` and `store`.

A process that a limit ends can often say nothing. So `doctor` and every start of Ray ask before, the lock of a run
records what is in force, and an error that a limit caused must name limit, value and remedy.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pseudoris.primitives.errors import ConfigError

_GIB: Final = 2**30
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMORY_GROUPS: Final = ("memory.max", "memory/memory.limit_in_bytes")
# With fewer bytes of addresses a Ray does not start, or ends without a word. Source: measured, 2 images, 2 cores: 8 GiB
# are too few, 16 GiB suffice.
_MIN_ADDRESSES: Final = 16 * 10**9
# Name, limit, files of cgroup v2 and v1, the least for a Ray on this machine, and what raises it. Source: measured, 63
# images with one actor: with 64 open files Ray ends the driver without a word, with 128 it works. Threads count as
# processes: a Ray has 180 and 23 for each of its workers.
_COUNTS: Final = (
    ("open files", resource.RLIMIT_NOFILE, (), 256, "ulimit -n"),
    ("processes", resource.RLIMIT_NPROC, ("pids.max", "pids/pids.max"), 1_024, "ulimit -u, or the container's pids"),
)
# These functions of the standard library fork. In all others EAGAIN means a full pipe, not a limit of processes.
_FORKS: Final = frozenset({"_execute_child", "_posix_spawn", "_launch", "spawnv_passfds"})
# What the loader of libraries, C++ and torch say when an allocation fails; they raise ImportError and RuntimeError.
_NO_MEMORY: Final = re.compile("failed to map segment|annot allocate memory|can't allocate memory|std::bad_alloc")
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
    found.append(memory_limit()[0])
    for name, folder in folders.items():
        if Path(folder).is_dir():
            least, remedy = _FOLDERS[name]
            free = shutil.disk_usage(folder).free
            found.append(Limit(f"free in {folder}", f"{free / _GIB:.2f} GiB", remedy, is_low=free < least))
    return found


def memory_limit() -> tuple[Limit, int]:
    """Return the limit of this process's memory, and its bytes: the machine's, its control group's or `ulimit -v`."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = _lowest(total, _MEMORY_GROUPS) or total
    whose, remedy, is_low = "", "give more, or use fewer actors", False
    if memory < total:
        whose, remedy = " of the container, or of this job's control group", "give it more, or use fewer actors"
    addresses = _lowest(resource.getrlimit(resource.RLIMIT_AS)[0], ())
    if addresses is not None and (addresses < memory or addresses < _MIN_ADDRESSES):
        memory, whose, is_low = addresses, " of addresses", addresses < _MIN_ADDRESSES
        remedy = "raise it (ulimit -v unlimited)"
    return Limit("memory", f"{memory / _GIB:.1f} GiB{whose}", remedy, is_low), memory


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
    elif number == errno.ENOMEM or isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        limit = memory
    else:
        return None
    said = str(error) or "no memory is left"
    return f"{said}: this machine's limit is reached. {limit}: {limit.remedy}, then run the same command again"


def group_files(group: str, groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """Yield where a limit stands: in this process's control group, and in those above it.

    `group` is the file's name (cgroup v2), or its controller and name (v1); `own` names the groups of the process. In a
    container its group is mostly the uppermost that is seen.
    """
    controller, _, name = group.rpartition("/")
    for line in own.read_bytes().decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            place = groups / controller / path.lstrip("/")
            yield from (each / name for each in (place, *place.parents) if each.is_relative_to(groups))


def _lowest(limit: int, groups: Sequence[str]) -> int | None:
    """Return the lower of a limit and of what the process's control groups allow; None if there is none."""
    values = [limit]
    # What is missing, has no number, or cannot be opened for lack of descriptors or memory, sets no limit.
    with suppress(OSError, ValueError, MemoryError):
        for file in (file for group in groups for file in group_files(group)):
            with suppress(OSError, ValueError):
                values.append(int(file.read_bytes()))
    # Values outside these bounds mean "no limit": cgroup v1 gives a number near 2**63, and `getrlimit` gives -1.
    return min((value for value in values if 0 <= value < 2**60), default=None)
