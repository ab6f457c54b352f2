"""How many shards one execution of Ray Data is given: few enough for the driver's memory, enough to pay for the pools.

An execution keeps some 15 MB a 1,000 shards on the driver until it ends (docs/scale.md), and each one starts its pools
anew: processes, models, and at its end actors that wait for the last shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class WindowTimes:
    """The clock readings of one execution.

    Attributes:
        began_s: When it was begun.
        first_s: When its first shard was committed; None before.
        last_s: When its latest was; None before.
        num_shards: How many were.
    """

    began_s: float
    first_s: float | None = None
    last_s: float | None = None
    num_shards: int = 0

    def add(self, now_s: float) -> None:
        """Count a commit."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.last_s = now_s
        self.num_shards += 1

    def shards_in_starts(self, num_starts: int) -> int | None:
        """Return how many shards are committed while pools could start `num_starts` times; None where it cannot tell.

        A start is the time to the first commit. That holds one shard's own time as well, which is what actors lose
        at the end of an execution, waiting for its last one.
        """
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return None
        shards_per_s = (self.num_shards - 1) / (self.last_s - self.first_s)
        return int(num_starts * (self.first_s - self.began_s) * shards_per_s)


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The sizes of a run's executions.

    Attributes:
        max_shards: Of one execution; a run of no more is one.
        min_shards: Of one execution in a longer run; its first one, which tells how long a start takes.
        num_starts: An execution of a longer run should last so many starts of the pools, if `max_shards` lets it.
    """

    max_shards: int = 100_000
    min_shards: int = 10_000
    num_starts: int = 100

    def size(self, num_pending: int, last: WindowTimes | None = None) -> int:
        """Return how many of `num_pending` shards come next, at least one.

        What is left over is spread over the windows to come: no start for a handful of shards.

        Args:
            num_pending: At least one.
            last: The execution before; None for the first.
        """
        if last is None:
            return num_pending if num_pending <= self.max_shards else self.min_shards
        wanted = last.shards_in_starts(self.num_starts) or self.min_shards
        size = min(max(wanted, self.min_shards), self.max_shards)
        num_windows = max(num_pending // size, -(-num_pending // self.max_shards))
        return -(-num_pending // num_windows)


WINDOWS: Final = WindowRule()
