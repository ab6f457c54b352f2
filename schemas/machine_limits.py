"""The limits of this machine and process that can end a run: open files, processes, memory, disk and /dev/shm.

A process that a limit ends can often say nothing. So `doctor` and every start of Ray ask before, the lock of a run
records what is in force, and an error that a limit caused is told with the limit.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pseudoris.schemas.errors import ConfigError

_GIB: Final = 2**30
# Source: measured, 63 images with one actor: with 64 open files Ray ends the driver without a word, with 128 it works.
_MIN_FILES: Final = 256
# Source: measured, a Ray of two CPUs has 700 threads.
_MIN_PROCESSES: Final = 1_024
# By folder: the bytes that must be free, and what to do. With less shared memory Ray keeps blocks on the disk, which is
# slow: containers have 64 MiB by default. In the temporary folder are Ray's logs and sockets.
SHARED: Final = "/dev/shm"
_FOLDERS: Final = {
    "temporary": (_GIB // 4, "free space, or set RAY_TMPDIR to a folder of another disk"),
    "shared": (_GIB // 2, "give the container more (docker run --shm-size=4g)"),
}
_CGROUPS: Final = Path("/sys/fs/cgroup")
# cgroup v1 writes no limit as the largest number of pages.
_NO_LIMIT: Final = 2**60


@dataclass(frozen=True, slots=True)
class Limit:
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
    files, processes = _soft(resource.RLIMIT_NOFILE), _least(_soft(resource.RLIMIT_NPROC), _cgroup("pids", "pids.max"))
    memory = _least(_cgroup("memory", "memory.max"), _cgroup("memory", "memory.limit_in_bytes"))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    whose = " of the container" if memory is not None and memory < total else ""
    found = [
        _limit("open files", files, _MIN_FILES, "raise it to {least:,} or more (ulimit -n)"),
        _limit(
            "processes",
            processes,
            _MIN_PROCESSES,
            "raise it to {least:,} or more (ulimit -u, or the container's pids limit)",
        ),
        Limit("memory", f"{(_least(memory, total) or 0) / _GIB:.1f} GiB{whose}", "give more, or use fewer actors"),
    ]
    for name, folder in folders.items():
        if Path(folder).is_dir():
            least, remedy = _FOLDERS[name]
            free = shutil.disk_usage(folder).free
            found.append(Limit(f"free in {folder}", f"{free / _GIB:.2f} GiB", remedy, is_low=free < least))
    return found


def check_limits(**folders: str) -> str:
    """Return the limits in force as text; ConfigError if one is too low for a Ray on this machine."""
    found = machine_limits(**folders)
    if low := [limit for limit in found if limit.is_low]:
        raise ConfigError("; ".join(f"{limit} is too low for Ray on this machine: {limit.remedy}" for limit in low))
    return ", ".join(map(str, found))


def told_by_limit(error: BaseException) -> str | None:
    """Return an error of this machine's limits as a sentence with limit, value and remedy; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}): free space, then run the same command again"
    files, processes, memory = machine_limits()
    if number in (errno.EMFILE, errno.ENFILE):
        limit = files
    elif number == errno.EAGAIN or "start new thread" in str(error):
        limit = processes
    elif number == errno.ENOMEM or isinstance(error, MemoryError):
        limit = memory
    else:
        return None
    return f"{error}: this machine's limit is reached. {limit}: {limit.remedy}, then run the same command again"


def _limit(name: str, value: int | None, least: int, remedy: str) -> Limit:
    is_low = value is not None and value < least
    return Limit(name, "unlimited" if value is None else f"{value:,}", remedy.format(least=least), is_low)


def _soft(number: int) -> int | None:
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _cgroup(controller: str, name: str) -> int | None:
    """Return the lowest limit of this process's groups, of cgroup v2 or v1; None if there is none."""
    lowest = None
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = _CGROUPS / controller if controllers else _CGROUPS
            folder = base / path.lstrip("/")
            for each in (folder, *folder.parents):
                if (file := each / name).is_file() and (text := file.read_text().strip()).isdecimal():
                    lowest = _least(lowest, int(text) if int(text) < _NO_LIMIT else None)
    except (OSError, ValueError):
        # Another system, or a container that hides them.
        return lowest
    return lowest
