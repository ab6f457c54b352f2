"""The faults of a soak, each a function that makes it once and says whether it did."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.lock import LOCK_FOLDER
from tests.builders.fault_proxy import Fault
from tests.builders.images import png
from tests.faults.harness import DEADLINE_S, Driver
from tests.faults.soak_settings import DRIZZLE, SETTINGS, Setting

# How long the bucket is away, seconds.
AWAY_S: Final = (60.0, 150.0)
PAUSED_S: Final = 1.0
# What an overtaken driver may still do while it does not know, seconds.
_UNAWARE_S: Final = 3.0
_HOUR_S: Final = 3_600
_DAY_S: Final = 24 * _HOUR_S
# 130 where a driver was asked to stop before its first shard, SIGTERM where that was before it could listen, SIGSEGV
# where Ray's C++ crashed while the process ended: seen once in 60 stops.
RESUMABLE_CODES: Final = (1, 3, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGSEGV)


@dataclass
class Piece:
    """One run of a soak: what is around it, who drives it, what it went through.

    `ends` are the exit codes of drivers that did not finish it, `latest_s` is how far ahead the clock was at most. With
    `may_end_anyhow` a node or the head was killed: on one machine the driver may hang on it and go with it.
    """

    setting: Setting
    draw: random.Random
    driver: Driver = field(init=False)
    struck: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    last: str = "none"
    latest_s: int = 0
    is_calm: bool = False
    may_end_anyhow: bool = False

    def start(self) -> None:
        self.driver = self.setting.start_driver()
        self.starts += 1
        self.may_end_anyhow = False
        if self.setting.name == "shm":
            self.struck[SMALL_SHM.name] += 1

    def strike(self, kind: Kind) -> bool:
        """Make a fault of a kind; return whether there was anything to strike."""
        self.is_calm = False
        if not kind.strike(self):
            return False
        self.struck[kind.name] += kind is not SMALL_SHM
        self.last = kind.name
        return True

    def calm(self) -> None:
        """End what lasts: from now on the run is left alone."""
        if self.is_calm:
            # Rules that are set anew hit the same requests again: one of them would never come through.
            return
        self.is_calm = True
        if self.setting.proxy:
            self.setting.proxy.set_faults(DRIZZLE)
        if self.setting.clock:
            # Ray tries a failed task again at a time of day: after a jump back by an hour it waits that hour.
            _set_clock(self.setting.clock, self.latest_s)


def signal_actor(piece: Piece, number: signal.Signals) -> bool:
    actors = _actors(piece)
    if not actors:
        return False
    pid = piece.draw.choice(actors)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(PAUSED_S)
            os.kill(pid, signal.SIGCONT)
        return True
    return False


def _actors(piece: Piece) -> list[int]:
    """Return the processes of stages, whatever they do at the moment: only those below this run's own Ray."""
    tops = [piece.driver.process.pid]
    if piece.setting.cluster:
        tops += piece.setting.cluster.raylets()
    below = [process for top in tops for process in _descendants(top)]
    return [process.pid for process in below if _command(process).startswith("ray::MapWorker")]


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline()[:1])
    return ""


def collect(piece: Piece) -> bool:
    if not piece.driver.location().exists("_run.json"):
        return False
    run_gc(piece.driver.location())
    return True


def stop_driver(piece: Piece) -> bool:
    piece.driver.process.terminate()
    return True


def kill_driver(piece: Piece) -> bool:
    with suppress(ProcessLookupError):
        piece.driver.process.kill()
    return True


def kill_node(piece: Piece) -> bool:
    assert piece.setting.cluster
    piece.may_end_anyhow = True
    node = piece.draw.choice(piece.setting.cluster.nodes)
    piece.setting.cluster.kill_node(node.node_id)
    piece.setting.cluster.add_node()
    return True


def kill_head(piece: Piece) -> bool:
    assert piece.setting.cluster
    piece.may_end_anyhow = True
    piece.setting.cluster.kill_head()
    piece.driver.process.wait(DEADLINE_S)
    piece.setting.new_cluster()
    return True


def overtake_driver(piece: Piece) -> bool:
    """Stop the driver; let another one take its place; wake it: it must see that, and end."""
    first = piece.driver
    if not _holds_lock(first):
        return False
    piece.calm()
    first.process.send_signal(signal.SIGSTOP)
    try:
        second = piece.setting.start_driver()
        while second.process.poll() is None and not _holds_lock(second):
            time.sleep(1.0)
        if second.process.poll() is not None:
            return False
        time.sleep(_UNAWARE_S)
    finally:
        first.process.send_signal(signal.SIGCONT)
    piece.driver = second
    output = first.process.communicate(timeout=DEADLINE_S)[0]
    if first.process.returncode == 0:
        # It had only to finish the run when it was stopped.
        return False
    assert first.process.returncode == 1, output
    assert "took over" in output, output
    return True


def _holds_lock(driver: Driver) -> bool:
    location = driver.location()
    claims = sorted(file.name for file in location.list(LOCK_FOLDER))
    return bool(claims) and json.loads(location.read_bytes(f"{LOCK_FOLDER}/{claims[-1]}"))["pid"] == driver.process.pid


def take_bucket_away(piece: Piece) -> bool:
    assert piece.setting.proxy
    piece.setting.proxy.set_faults((Fault("reset"),))
    time.sleep(piece.draw.uniform(*AWAY_S))
    piece.calm()
    return True


def fill_disk(piece: Piece) -> bool:
    """Leave no byte free until the driver has ended for it."""
    assert piece.setting.disk
    filler = piece.setting.disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        piece.driver.process.wait(DEADLINE_S)
    finally:
        filler.unlink(missing_ok=True)
    return True


def jump_clock(seconds: int) -> Callable[[Piece], bool]:
    """Return a fault that moves the time of day by so much, forwards or backwards."""

    def jump(piece: Piece) -> bool:
        assert piece.setting.clock
        now_s = int(piece.setting.clock.read_text()) + piece.draw.choice((-seconds, seconds))
        _set_clock(piece.setting.clock, now_s)
        piece.latest_s = max(piece.latest_s, now_s)
        return True

    return jump


def _set_clock(clock: Path, ahead_s: int) -> None:
    written = clock.with_suffix(".new")
    written.write_text(f"{ahead_s:+d}")
    written.replace(clock)


def grow_source(piece: Piece) -> bool:
    """Add an image, once the plan stands: a run annotates what it has planned."""
    if not piece.driver.location().exists("_run.json"):
        return False
    name = f"later-{piece.draw.randrange(10**9):09d}.png"
    (piece.setting.source / piece.draw.choice("abc") / name).write_bytes(png(seed=piece.draw.randrange(10**6)))
    return True


def storm(*faults: Fault) -> Callable[[Piece], bool]:
    def begin(piece: Piece) -> bool:
        assert piece.setting.proxy
        piece.setting.proxy.set_faults((*faults, *DRIZZLE))
        return True

    return begin


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault, and where it can be made. A dear one has no weight among the cheap: its turn comes by count."""

    name: str
    strike: Callable[[Piece], bool]
    settings: tuple[str, ...]
    weight: float = 0.0


_ALL: Final = tuple(SETTINGS)
_BUCKETS: Final = ("bucket", "clock")
# Made by the setting itself at every start; a driver's end brings the next one.
SMALL_SHM: Final = Kind("Ray started with 64 MiB of /dev/shm", kill_driver, ("shm",))
CHEAP: Final = (
    Kind("a stage's process was killed", partial(signal_actor, number=signal.SIGKILL), _ALL, 3),
    Kind("a stage's process stood still for a second", partial(signal_actor, number=signal.SIGSTOP), _ALL, 3),
    Kind("`gc` ran beside it", collect, _ALL, 2),
    Kind("the bucket answered 503 to three of ten requests", storm(Fault("slow_down", rate=0.3)), _BUCKETS, 2),
    Kind("the bucket answered 500 to one request in ten", storm(Fault("internal_error", rate=0.1)), _BUCKETS, 2),
    Kind(
        "the bucket reset connections, before and after the work",
        storm(Fault("reset", rate=0.1), Fault("reset_done", rate=0.1)),
        _BUCKETS,
        2,
    ),
    Kind(
        "the bucket answered 409 to creations, done and not done",
        storm(Fault("conflict", rate=0.3), Fault("conflict_done", rate=0.3)),
        _BUCKETS,
        2,
    ),
    Kind("the bucket carried out three of ten requests twice", storm(Fault("doubled", rate=0.3)), _BUCKETS, 2),
    Kind(
        "bodies that trickled or were cut",
        storm(Fault("slow_body", rate=0.1, seconds=1.0), Fault("cut_body", rate=0.1)),
        _BUCKETS,
        2,
    ),
)
DEAR: Final = (
    Kind("a node was killed, and another took its place", kill_node, ("bucket", "disk", "clock")),
    Kind("the driver was killed", kill_driver, _ALL),
    Kind("the driver was asked to stop", stop_driver, _ALL),
    Kind("the head was killed, and a new cluster went on", kill_head, ("bucket",)),
    Kind("the driver stood still, was overtaken, and woke", overtake_driver, ("bucket", "disk")),
    Kind("the bucket was away for one to two and a half minutes", take_bucket_away, ("bucket",)),
    Kind("the disk was full, and was freed", fill_disk, ("disk",)),
    Kind("the clock jumped by an hour", jump_clock(_HOUR_S), ("clock",)),
    Kind("the clock jumped by a day", jump_clock(_DAY_S), ("clock",)),
    Kind("the source grew", grow_source, _ALL),
    SMALL_SHM,
)
