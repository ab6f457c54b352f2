"""Attempts: which pool has begun a shard, on which node, written before the work starts, where no death reaches it.

    _attempts/shard-00000042.g0~fused~<start>~<node>~<pid>-<nonce>.begun        before the work
    _attempts/shard-00000042.g0~fused~<start>~<node>~<pid>-<nonce>.ended        when it has come to an end, good or bad

A record without its end is an attempt that still runs, or whose process died. The files are empty, their names say
all: one listing tells a shard's history. They are deleted after the commit, so that a listing shows what is in flight.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.ids import shard_name
from store.location import RunLocation

ATTEMPTS_FOLDER: Final = "_attempts"
_NAME: Final = re.compile(r"^shard-(\d{8,})\.g(\d+)~([^~]+)~([^~]+)~([^~]+)~([^~.]+)\.(begun|ended)$")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A pool's work on a shard, begun once.

    Attributes:
        shard: Number in the plan.
        generation: Of the shard.
        pool: `fused`, or the stage's name.
        start: Which start of the run: a nonce of its driver.
        node: Ray's id of the node.
        process: Its process number there, and a nonce that tells it from other attempts.
    """

    shard: int
    generation: int
    pool: str
    start: str
    node: str
    process: str

    def path(self, event: str) -> str:
        """Return where its `begun` or `ended` stands."""
        words = (shard_name(self.shard, self.generation), self.pool, self.start, self.node, self.process)
        return f"{ATTEMPTS_FOLDER}/{'~'.join(words)}.{event}"


@dataclass(frozen=True, slots=True)
class AttemptHistory:
    """What is recorded of one generation of a shard.

    Attributes:
        begun: Every attempt.
        ended: Those that came to an end.
    """

    begun: frozenset[Attempt]
    ended: frozenset[Attempt]

    def starts(self) -> dict[str, int]:
        """Return how many times each pool has begun the shard."""
        return dict(sorted(Counter(attempt.pool for attempt in self.begun).items()))

    def num_deaths(self, *, pool: str, start: str, living_nodes: Iterable[str]) -> int:
        """Return how many attempts of this pool, in this start of the run, ended with their process on nodes that live.

        A node that is gone took its processes along, and an earlier driver too: neither says anything of a shard.
        """
        nodes = frozenset(living_nodes)
        open_ones = self.begun - self.ended
        return sum((each.pool, each.start) == (pool, start) and each.node in nodes for each in open_ones)


def begin_attempt(
    location: RunLocation, shard: int, generation: int, *, pool: str, start: str, node: str
) -> tuple[Attempt, AttemptHistory]:
    """Record the beginning, and return it with the history before it.

    Raises:
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    history = read_attempts(location, shard, generation)
    attempt = Attempt(shard, generation, pool, start, node, f"{os.getpid()}-{secrets.token_hex(4)}")
    location.create_once(attempt.path("begun"), b"")
    return attempt, history


def end_attempt(location: RunLocation, attempt: Attempt) -> None:
    """Record that the attempt came to an end, with a result or with an exception."""
    location.create_once(attempt.path("ended"), b"")


def read_attempts(location: RunLocation, shard: int, generation: int) -> AttemptHistory:
    """Return the shard's history; empty once it is committed and tidied."""
    begun, ended = parse_attempts(location)
    mine = {attempt for attempt in begun if (attempt.shard, attempt.generation) == (shard, generation)}
    return AttemptHistory(frozenset(mine), frozenset(mine & ended))


def parse_attempts(location: RunLocation) -> tuple[frozenset[Attempt], frozenset[Attempt]]:
    """Return all attempts on record, and those of them that have ended; without both it is in flight, or died."""
    found: dict[str, set[Attempt]] = {"begun": set(), "ended": set()}
    for attempt, event, _ in _list(location):
        found[event].add(attempt)
    return frozenset(found["begun"]), frozenset(found["ended"])


def clear_attempts(location: RunLocation, history: AttemptHistory) -> None:
    """Delete the records of a generation whose receipt stands; what was begun since is left to gc."""
    for event, attempts in (("begun", history.begun), ("ended", history.ended)):
        for attempt in attempts:
            location.delete(attempt.path(event))


def attempts_of(location: RunLocation, committed: Iterable[tuple[int, int]]) -> list[str]:
    """Return the paths of records that `committed`, pairs of shard and generation, have made void."""
    standing = dict(committed)
    return [path for attempt, _, path in _list(location) if attempt.generation <= standing.get(attempt.shard, -1)]


def _list(location: RunLocation) -> Iterable[tuple[Attempt, str, str]]:
    for file in location.list(ATTEMPTS_FOLDER):
        match = _NAME.match(file.name)
        if match:
            shard, generation, *words, event = match.groups()
            yield Attempt(int(shard), int(generation), *words), event, f"{ATTEMPTS_FOLDER}/{file.name}"
