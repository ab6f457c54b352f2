"""Records which pool began a shard on which node, before the work, so that the record survives a crash.

    _attempts/shard-00000042.g0~fused~<session>~<node>~<pid>-<nonce>.begun        written before the work
    _attempts/shard-00000042.g0~fused~<session>~<node>~<pid>-<nonce>.ended        written when it ends, in any way

In `pipeline`, `executor` writes the files and counts deaths by them, `shard_tasks` reads and deletes them, and
`annotation` puts tried shards last. `gc` deletes what is left; `checks` knows their names. A `begun` without its
`ended` is an attempt that is still running, or whose process died. The files are empty: all data is in their names, so
that one listing gives a shard's history. They are deleted after the commit, so that a listing shows only what is in
flight.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import SHARD_NAME, shard_name

ATTEMPTS_FOLDER: Final = "_attempts"
ATTEMPT_NAME: Final = re.compile(rf"^{SHARD_NAME}~([^~]+)~([^~]+)~([^~]+)~([^~.]+)\.(begun|ended)$")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a pool to process a shard.

    Attributes:
        pool: `fused`, or the stage's name.
        session_nonce: Identifies the session, which is one driver's work on the run.
        node: Ray's id of the node.
        process: The process number on that node, and a nonce that distinguishes it from other attempts.
    """

    shard: int
    generation: int
    pool: str
    session_nonce: str
    node: str
    process: str

    def path(self, event: str) -> str:
        """Return the path of its `begun` or `ended` file."""
        words = (shard_name(self.shard, self.generation), self.pool, self.session_nonce, self.node, self.process)
        return f"{ATTEMPTS_FOLDER}/{'~'.join(words)}.{event}"


@dataclass(frozen=True, slots=True)
class AttemptHistory:
    """The recorded attempts of one generation of a shard: all that `begun`, and those of them that `ended`."""

    begun: frozenset[Attempt]
    ended: frozenset[Attempt]

    def begun_by_pool(self) -> dict[str, int]:
        """Return how many times each pool has begun the shard."""
        return dict(sorted(Counter(attempt.pool for attempt in self.begun).items()))

    def num_deaths(self, *, pool: str, session_nonce: str, living_nodes: Iterable[str]) -> int:
        """Return how many attempts of this pool, in this session, died with their process on nodes that are alive.

        Attempts on lost nodes and of earlier sessions do not count: their deaths have nothing to do with the shard.
        """
        nodes = frozenset(living_nodes)
        open_ones = self.begun - self.ended
        return sum(
            (each.pool, each.session_nonce) == (pool, session_nonce) and each.node in nodes for each in open_ones
        )


def begin_attempt(
    location: RunLocation, shard: int, generation: int, *, pool: str, session_nonce: str, node: str
) -> tuple[Attempt, AttemptHistory]:
    """Record the start of an attempt; return the attempt and the history before it."""
    history = read_attempts(location, shard, generation)
    attempt = Attempt(shard, generation, pool, session_nonce, node, f"{os.getpid()}-{secrets.token_hex(4)}")
    location.create_once(attempt.path("begun"), b"")
    return attempt, history


def end_attempt(location: RunLocation, attempt: Attempt) -> None:
    """Record that the attempt ended, with a result or an exception."""
    location.create_once(attempt.path("ended"), b"")


def read_attempts(location: RunLocation, shard: int, generation: int) -> AttemptHistory:
    """Return the shard's history; empty once the shard is committed and its records are deleted."""
    # Only records of this shard are listed, because a large run has thousands of other shards in progress.
    begun, ended = parse_attempts(location, name_prefix=f"{shard_name(shard, generation)}~")
    return AttemptHistory(begun, begun & ended)


def parse_attempts(location: RunLocation, *, name_prefix: str = "") -> tuple[frozenset[Attempt], frozenset[Attempt]]:
    """Return all recorded attempts whose names begin with `name_prefix`, and those of them that ended."""
    found: dict[str, set[Attempt]] = {"begun": set(), "ended": set()}
    for attempt, event, _ in _list(location, name_prefix):
        found[event].add(attempt)
    return frozenset(found["begun"]), frozenset(found["ended"])


def clear_attempts(location: RunLocation, history: AttemptHistory) -> None:
    """Delete the records of a committed generation; gc deletes attempts that began later."""
    for event, attempts in (("begun", history.begun), ("ended", history.ended)):
        for attempt in attempts:
            location.delete(attempt.path(event))


def attempts_of(location: RunLocation, committed: Iterable[tuple[int, int]]) -> list[str]:
    """Return the paths of records that are obsolete because their (shard, generation) is in `committed`."""
    latest = dict(committed)
    return [path for attempt, _, path in _list(location) if attempt.generation <= latest.get(attempt.shard, -1)]


def _list(location: RunLocation, name_prefix: str = "") -> Iterable[tuple[Attempt, str, str]]:
    for file in location.list(ATTEMPTS_FOLDER, name_prefix=name_prefix):
        match = ATTEMPT_NAME.match(file.name)
        if match:
            shard, generation, *words, event = match.groups()
            yield Attempt(int(shard), int(generation), *words), event, f"{ATTEMPTS_FOLDER}/{file.name}"
