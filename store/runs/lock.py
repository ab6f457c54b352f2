"""The advisory lock of a run, held by each session that writes it. Called by the rooms that write or look at runs.

Only receipts protect the data. Each owner creates the next claim, `_lock/claim-00000007.json`, once; the highest claim
holds the lock. A claim has its owner's nonce, and a counter that the owner raises while it is alive. A driver that
finds a claim watches the counter for a minute by its own clock; clocks of two machines must never be compared. If the
counter moves, the owner is alive. Otherwise the watcher creates the next claim; of several watchers one succeeds. The
store only needs exclusive creation, so a disk and a bucket behave the same.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec

from pseudoris.files.location import ListedFile, RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.primitives.machine_limits import machine_limits
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.ids import EIGHT_DIGITS
from pseudoris.schemas.run_records import HEADER_NAME

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_Tell = Callable[Concatenate[int, int, _P], None]

# A process id above this is invalid. It is the limit of Linux, and other systems have lower limits.
_MAX_PID: Final = 2**22


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a claim's file.

    Attributes:
        owner: The owner's nonce, a space, and the limits in force for the owner, for a person. The limits have no field
            of their own, because version 0.5.0 takes a claim with another field for none.
        counter: Raised by every heartbeat.
        host: The owner's machine and process namespace.
        is_released: Whether the owner has released the lock.
    """

    owner: str
    counter: int
    host: str
    pid: int
    is_released: bool = False


_KINDS: Final = {"owner": str, "counter": int, "host": str, "pid": int, "is_released": bool}


def claim_to_bytes(claim: Claim) -> bytes:
    """Return the bytes of the claim's file."""
    return json.dumps(asdict(claim)).encode()


def claim_from_bytes(data: bytes) -> Claim | None:
    """Return the claim in a file, without fields of later versions; None if pseudoris did not write it."""
    try:
        claim = Claim(**{name: value for name, value in parse_json(data).items() if name in _KINDS})
    except (ValueError, TypeError, AttributeError):
        return None
    is_typed = all(type(getattr(claim, name)) is kind for name, kind in _KINDS.items())
    # A process id of 0 or below is invalid, because `os.kill` would then check a process group, such as our own.
    return claim if is_typed and 0 < claim.pid <= _MAX_PID else None


LOCK_FOLDER: Final = "_lock"
# A driver writes a heartbeat after this many seconds. Four fit into `WATCH_S`, so that one may be late.
HEARTBEAT_S: Final = 15.0
WATCH_S: Final = 60.0
_POLL_S: Final = 2.0
_RELEASE_S: Final = 30.0
# A driver looks at the claims so often. A race is lost once or twice; a proxy that cuts bodies loses them all.
_MAX_ATTEMPTS: Final = 15
_CHANGED: Final = (
    f"a claim in {LOCK_FOLDER}/ cannot be read back as it was written. Does a proxy between here and the store change "
    "or cut bodies?"
)
_STALE: Final = (
    f"the listing of {LOCK_FOLDER}/ lacks a claim that was written. Does a cache between here and the store answer for "
    "it?"
)
CLAIM_NAME: Final = re.compile(rf"^claim-{EIGHT_DIGITS}\.json$")


class TakenOverError(ConfigError):
    """Another driver took over the run."""


@dataclass(frozen=True, slots=True)
class LockTimes:
    """The lock's clock and times; tests use their own."""

    watch_s: float = WATCH_S
    heartbeat_s: float = HEARTBEAT_S
    poll_s: float = _POLL_S
    release_s: float = _RELEASE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class RunLock:
    """A claim on a run, from `acquire` to `release`; `held` does both, with heartbeats in between."""

    def __init__(self, location: RunLocation, number: int, claim: Claim) -> None:
        self._location = location
        self._number = number
        self._claim = claim
        self._loss: TakenOverError | None = None

    @classmethod
    def acquire(
        cls, location: RunLocation, *, on_wait: Callable[[str], None] = logger.warning, times: LockTimes | None = None
    ) -> RunLock:
        """Acquire and return the lock, at once if it is free or its owner died here; ConfigError if its owner lives.

        TransientError if no claim can be read back as it was written, or none is listed.

        `on_wait` is called with a text before a wait, before a takeover, and after the owner's death.
        """
        times = times or LockTimes()
        owner = f"{secrets.token_hex(8)} {', '.join(map(str, machine_limits()))}"
        own = Claim(owner, 0, _host(), os.getpid())
        claimed, last, flaw = 0, None, "other drivers claim it too"
        for _ in range(_MAX_ATTEMPTS):
            # After each claim all are read again, because other drivers may have added, released or deleted some.
            number, holder = _highest(location)
            if holder == own and number == claimed:
                if last is not None and last.death is not None:
                    on_wait(last.death)
                _tidy(location, number)
                return cls(location, number, own)
            # What such a listing shows must not be watched: the claim that it lacks may show up meanwhile.
            is_stale = number < claimed and location.exists(_path(claimed))
            if is_stale or (claimed == number > 0 and (holder is None or holder.owner == owner)):
                if (found := _STALE if is_stale else _CHANGED) != flaw:
                    flaw = found
                    on_wait(f"{location.root}: {flaw} Trying again")
                times.sleep(times.poll_s)
            if is_stale:
                continue
            if holder is not None and holder.owner != owner and not _is_gone(holder):
                _watch(location, number, holder, on_wait=on_wait, times=times)
            last, claimed = current_holder(location), number + 1
            location.create_once(_path(claimed), claim_to_bytes(own))
        raise TransientError(f"the lock of {location.root} cannot be taken in {_MAX_ATTEMPTS} attempts: {flaw}")

    def heartbeat(self) -> None:
        """Raise the counter; TakenOverError if another driver took over the run: this one must stop."""
        number, holder = _highest(self._location)
        if number != self._number or holder is None or holder.owner != self._claim.owner:
            raise TakenOverError(
                f"{_name(holder) if holder else 'another process'} took over {self._location.root} while this one gave "
                "no sign of life. This one stops; nothing committed is lost"
            )
        self._claim = replace(self._claim, counter=self._claim.counter + 1)
        self._location.replace(_path(self._number), claim_to_bytes(self._claim))

    def check(self, *, is_now: bool = False) -> None:
        """Raise TakenOverError if another driver had taken over at the last heartbeat, or, if `is_now`, now."""
        if is_now:
            self.heartbeat()
        if self._loss is not None:
            raise self._loss

    def guarded(self, tell: _Tell[_P], *, is_last_now: bool = False) -> _Tell[_P]:
        """Return a callback of progress, done of total, that `check`s first; at the end `is_now` if `is_last_now`.

        A process that stood still may have lost the lock. What it writes would be mixed with the other's files.
        """

        def guard(done: int, total: int, /, *args: _P.args, **named: _P.kwargs) -> None:
            self.check(is_now=is_last_now and done == total)
            tell(done, total, *args, **named)

        return guard

    def release(self) -> None:
        """Release the lock; the next driver need not wait."""
        # The file stays, because a late heartbeat of this driver could look like a new claim of the same number.
        self._location.replace(_path(self._number), claim_to_bytes(replace(self._claim, is_released=True)))

    @classmethod
    @contextmanager
    def held(
        cls, location: RunLocation, *, on_wait: Callable[[str], None] = logger.warning, times: LockTimes | None = None
    ) -> Iterator[RunLock]:
        """Hold the lock for the block, with heartbeats; `check` it between units of work. Raises as `acquire`."""
        times = times or LockTimes()
        lock = cls.acquire(location, on_wait=on_wait, times=times)
        stop = threading.Event()
        beats = threading.Thread(target=lock._beat, args=(stop, times.heartbeat_s), name="run-lock", daemon=True)
        beats.start()
        try:
            yield lock
        finally:
            stop.set()
            # In a thread, because the storage may no longer answer: the error that the user is about to see must not be
            # delayed or replaced by another timeout. A claim that is not released expires within a minute.
            end = threading.Thread(target=lock._end, args=(beats,), name="run-lock-end", daemon=True)
            end.start()
            end.join(times.release_s)

    def _end(self, beats: threading.Thread) -> None:
        # The thread of heartbeats ends first, because a heartbeat after the release would undo the release.
        beats.join()
        if self._loss is not None:
            return
        try:
            self.release()
            if not self._location.exists(HEADER_NAME):
                _tidy(self._location, self._number + 1)
                self._location.delete_empty(LOCK_FOLDER)
        except (TransientError, ConfigError, OSError) as error:
            logger.warning("Could not release the run's lock. It expires in a minute: %s", error)

    def _beat(self, stop: threading.Event, heartbeat_s: float) -> None:
        while not stop.wait(heartbeat_s):
            try:
                self.heartbeat()
            except TakenOverError as loss:
                self._loss = loss
                return
            except (TransientError, ConfigError, OSError) as error:
                # Heartbeats may fail for less than the watch time; the next one notices a takeover in between. Lost
                # rights may return; if they do not, a commit reports it.
                logger.warning("A heartbeat of the run's lock failed: %s", error)


@dataclass(frozen=True, slots=True)
class Holder:
    """The driver that wrote the highest claim, as one look at the claim shows it.

    Attributes:
        name: Process and machine.
        beat: Nonce and counter of the owner: another value at the next look is a sign of life.
        is_gone: Whether the lock is certainly free: released, or the process died on this machine.
        is_here: Whether its process is alive on this machine.
        beaten_s: When the claim was last written, epoch seconds by the storage's clock.
        death: What to say of it if it is dead, or silent; None if it released the lock.
    """

    name: str
    beat: tuple[str, int]
    is_gone: bool
    is_here: bool
    beaten_s: float
    death: str | None = None


def current_holder(location: RunLocation) -> Holder | None:
    """Return the holder of the run, None if it never had one. Writes nothing and does not wait."""
    claims = _claims(location)
    claim = _read(location, max(claims)) if claims else None
    if claim is None:
        return None
    is_gone, beaten_s = _is_gone(claim), claims[max(claims)].modified_s
    is_here = not is_gone and claim.host == _host()
    death = None if claim.is_released else _death(claim, beaten_s)
    return Holder(_name(claim), (claim.owner, claim.counter), is_gone, is_here, beaten_s, death)


def _death(claim: Claim, beaten_s: float) -> str:
    """Return what to say of a driver that ended or fell silent: when, and the limits that were in force."""
    first, last = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}" for at in (beaten_s, beaten_s + HEARTBEAT_S))
    limits = claim.owner.partition(" ")[2]
    killed = "was killed from outside (out of memory, a scheduler, kill -9) or crashed"
    if _is_gone(claim):
        said = f"{killed}: it ended without a word between {first} and {last.partition(' ')[2]} UTC"
    else:
        said = f"gave no sign of life since {first} UTC: it cannot reach the storage, or {killed}"
    return f"{_name(claim)} {said}{limits and f'. Limits then: {limits}'}. Nothing committed is lost"


def _watch(
    location: RunLocation, number: int, holder: Claim, *, on_wait: Callable[[str], None], times: LockTimes
) -> None:
    """Return when the next claim may be created; raise ConfigError if the owner shows a sign of life."""
    on_wait(
        f"{_name(holder)} holds the lock of {location.root}. Waiting up to {times.watch_s:.0f} s for a sign of life"
    )
    start = times.clock()
    while times.clock() - start < times.watch_s:
        times.sleep(times.poll_s)
        now_number, now = _highest(location)
        if now is None or _is_gone(now):
            return
        if now_number != number or now != holder:
            raise ConfigError(
                f"{_name(now)} is working on {location.root}: wait until it ends, stop it, or name another output"
            )
    on_wait(f"{_name(holder)} gave no sign of life for {times.watch_s:.0f} s. Taking over {location.root}")


def _claims(location: RunLocation) -> dict[int, ListedFile]:
    return {int(match[1]): file for file in location.list(LOCK_FOLDER) if (match := CLAIM_NAME.match(file.name))}


def _highest(location: RunLocation) -> tuple[int, Claim | None]:
    number = max(_claims(location), default=0)
    return number, _read(location, number) if number else None


def _read(location: RunLocation, number: int) -> Claim | None:
    """Return the claim; None if its file is gone or is not a claim."""
    data = location.read_if_there(_path(number))
    return None if data is None else claim_from_bytes(data)


def _tidy(location: RunLocation, number: int) -> None:
    """Delete the claims below `number`: they are replaced."""
    for lower in (each for each in _claims(location) if each < number):
        location.delete(_path(lower))


def _is_gone(holder: Claim) -> bool:
    """Return whether the claim is released, or its process died on this machine. True is certain, False is not."""
    if holder.is_released:
        return True
    if holder.host != _host():
        return False
    try:
        os.kill(holder.pid, 0)
    except (ProcessLookupError, PermissionError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def _host() -> str:
    """Return what makes process numbers unique to this machine: host name, boot id and process namespace."""
    marks = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        # The host name is not enough: two containers may have the same one. Process ids are unique only in a namespace.
        marks += [boot.read_text().strip()[:8], str(namespace.readlink())]
    return " ".join(marks)


def _path(number: int) -> str:
    return f"{LOCK_FOLDER}/claim-{number:08d}.json"


def _name(claim: Claim) -> str:
    return f"process {claim.pid} on {claim.host.partition(' ')[0]}"
