"""Where a run of a soak takes place: a bucket, a disk that fills, a clock that jumps, a small /dev/shm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.builders.fault_proxy import Fault, FaultProxy, injecting
from tests.builders.s3 import S3Server
from tests.faults.harness import NODES, Driver, LocalCluster, local_cluster, start_driver

# Requests that fail in a bucket at any time.
DRIZZLE: Final = (Fault("slow_down", rate=0.01),)
SMALL_SHM: Final = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
_FAKETIME: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
# libfaketime 0.9.10 breaks two calls on the monotonic clock, though it is told to leave that clock alone. A sleep until
# a moment, which is Python's `time.sleep`, returns EINVAL. A timer set to a moment long past, which is how Ray's event
# loop says "now", fires only once the machine has been up for as long as the clock went back: the driver stands still.
_MONOTONIC_SOURCE: Final = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
int timerfd_settime(int timer, int flags, const struct itimerspec *value, struct itimerspec *old) {
  return syscall(SYS_timerfd_settime, timer, flags, value, old);
}
"""


@dataclass
class Setting:
    """What a run has around it; what a setting lacks is None.

    `prefix` stands before a driver's command. Without a cluster each driver starts Ray for itself. `clock` is the file
    that holds the difference of the processes' clock, in seconds.
    """

    name: str
    source: Path
    out: str
    words: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    cluster: LocalCluster | None = None
    proxy: FaultProxy | None = None
    disk: Path | None = None
    clock: Path | None = None
    _clusters: ExitStack = field(default_factory=ExitStack)

    def start_driver(self) -> Driver:
        address = self.cluster.address if self.cluster else "local"
        return start_driver(self.source, self.out, address, *self.words, prefix=self.prefix)

    def new_cluster(self) -> None:
        self._clusters.close()
        self.cluster = self._clusters.enter_context(local_cluster(NODES))

    def close(self) -> None:
        self._clusters.close()


@contextmanager
def on_bucket(source: Path, folder: Path, server: S3Server, seed: int) -> Iterator[Setting]:
    """A bucket behind a proxy that injects faults, a cluster of three raylets."""
    with injecting(server.endpoint_url, DRIZZLE, seed=seed) as proxy:
        words = (f"source.endpoint_url={proxy.endpoint_url}", "placement.storage.read_timeout_s=10")
        out = f"s3://{server.new_bucket('soak')}/out"
        with closing(Setting("bucket", source, out, words, proxy=proxy)) as setting:
            setting.new_cluster()
            yield setting


@contextmanager
def on_clock(source: Path, folder: Path, server: S3Server, seed: int) -> Iterator[Setting]:
    """The same, and all processes of the cluster and the driver ask libfaketime for the time of day."""
    clock = folder / "clock"
    clock.write_text("+0")
    monotonic = folder / "monotonic.so"
    compiler = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(monotonic)]
    subprocess.run(compiler, input=_MONOTONIC_SOURCE, text=True, check=True)
    with pytest.MonkeyPatch.context() as patch:
        environment = {
            "LD_PRELOAD": f"{monotonic} {_FAKETIME[0]}",
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            # A monotonic clock does not jump, wherever the time of day goes.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        with on_bucket(source, folder, server, seed) as setting:
            setting.name, setting.clock = "clock", clock
            yield setting


@contextmanager
def on_disk(source: Path, folder: Path, server: S3Server, seed: int) -> Iterator[Setting]:
    """A file system of 64 MiB, which a fault can fill."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    try:
        with closing(Setting("disk", source, str(disk / "out"), disk=disk)) as setting:
            setting.new_cluster()
            yield setting
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def on_small_shm(source: Path, folder: Path, server: S3Server, seed: int) -> Iterator[Setting]:
    """Every driver starts Ray in a mount namespace of its own, with the /dev/shm that a container has by default."""
    prefix = ("unshare", "--mount", "sh", "-c", SMALL_SHM, "sh")
    yield Setting("shm", source, str(folder / "out"), prefix=prefix)


Enter = Callable[[Path, Path, S3Server, int], AbstractContextManager[Setting]]
SETTINGS: Final[dict[str, Enter]] = {"bucket": on_bucket, "disk": on_disk, "clock": on_clock, "shm": on_small_shm}


def possible_settings() -> tuple[str, ...]:
    """Return the settings that this machine allows: mounts need root, the clock libfaketime and a C compiler."""
    may_mount = os.geteuid() == 0 and not subprocess.run(["unshare", "--mount", "true"], check=False).returncode
    allowed = {"bucket": True, "disk": may_mount, "clock": bool(_FAKETIME and shutil.which("cc")), "shm": may_mount}
    return tuple(name for name in SETTINGS if allowed[name])
