"""The executor of a run on Ray Data: windows of shards in, outcomes out, Ray's errors converted to ours.

A window is the set of shards of one execution of Ray Data. It must be small enough for the driver's memory and large
enough to pay for starting the pools. An execution keeps about 3 MB per 1,000 shards on the driver until it ends, and 13
in GCS and raylet (docs/scale.md). Each execution starts its pools again (processes and models), and its actors idle
while the last shard finishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import ray
from ray.exceptions import RayError

from pseudoris.pipeline.graph import build_dataset
from pseudoris.pipeline.interrupts import Interrupts
from pseudoris.pipeline.job import Job
from pseudoris.pipeline.ray_errors import original_error, strip_traceback
from pseudoris.pipeline.shard_tasks import block_to_outcome
from pseudoris.schemas.shard import ShardFault
from pseudoris.store.runs.pending_work import PendingWork
from pseudoris.store.runs.session import Executor, Outcome

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class WindowTimes:
    """The clock times of one execution.

    Attributes:
        began_s: When it began.
        first_s: When its first shard was committed; None before that.
        last_s: When its latest shard was committed; None before that.
        num_shards: How many shards were committed.
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
        """Return how many shards are committed in the time of `num_starts` pool starts; None if it cannot tell.

        The time of a start is the time to the first commit. It includes the time of one shard, which is what actors
        lose at the end of an execution while they wait for its last shard.
        """
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return None
        shards_per_s = (self.num_shards - 1) / (self.last_s - self.first_s)
        return int(num_starts * (self.first_s - self.began_s) * shards_per_s)


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The sizes of a run's executions.

    Attributes:
        max_shards: Most shards of one execution. A run of at most this many is one execution.
        min_shards: Fewest shards of one execution in a longer run. The first execution has this many: it measures how
            long a start takes.
        num_starts: In a longer run, an execution should last as long as this many starts of the pools, if `max_shards`
            allows it.
    """

    max_shards: int = 100_000
    min_shards: int = 10_000
    num_starts: int = 100

    def size(self, num_pending: int, last: WindowTimes | None = None) -> int:
        """Return how many of `num_pending` shards come next, at least one.

        A remainder is spread over the windows that follow, so that no window holds only a few shards.

        Args:
            num_pending: At least one.
            last: The previous execution; None for the first.
        """
        if last is None:
            return num_pending if num_pending <= self.max_shards else self.min_shards
        wanted = last.shards_in_starts(self.num_starts) or self.min_shards
        size = min(max(wanted, self.min_shards), self.max_shards)
        num_windows = max(num_pending // size, -(-num_pending // self.max_shards))
        return -(-num_pending // num_windows)


WINDOWS: Final = WindowRule()


def ray_executor(
    job: Job, actors: Mapping[str, int], interrupts: Interrupts, *, rule: WindowRule = WINDOWS
) -> Executor:
    """Return an executor that computes and commits shards of `job` on Ray. A requested stop ends it between commits."""

    def execute(pending: PendingWork) -> Generator[Outcome]:
        with closing(run_shards(job, pending.shards, actors, rule=rule)) as outcomes:
            for outcome in outcomes:
                yield outcome
                interrupts.check()

    return execute


def run_shards(
    job: Job, shards: Sequence[int], actors: Mapping[str, int], *, rule: WindowRule = WINDOWS
) -> Generator[Outcome]:
    """Yield the receipt of each of `shards` as its commit lands, or why it is set aside; only the windows are in order.

    Closing the iterator, or an exception in its consumer, ends the execution; committed shards are kept.

    Args:
        job: The run.
        shards: Numbers of uncommitted shards of the plan, in the order in which they should begin.
        actors: Planned actors by pool name, from `resources.plan_actors`.
        rule: How many shards go into one execution.

    Raises:
        PseudorisError: A worker raised it; `TransientError` also if Ray itself failed.
    """
    ours: BaseException | None = None
    try:
        with closing(_run_windows(job, shards, actors, rule)) as outcomes:
            yield from outcomes
    except RayError as error:
        logger.debug("Ray raised:", exc_info=True)
        ours = original_error(error)
    # Raised here, outside of Ray's frames: they would keep the actors alive.
    if ours is not None:
        raise strip_traceback(ours)


def _run_windows(job: Job, shards: Sequence[int], actors: Mapping[str, int], rule: WindowRule) -> Generator[Outcome]:
    num_begun, times = 0, None
    while num_begun < len(shards):
        window = shards[num_begun : num_begun + rule.size(len(shards) - num_begun, times)]
        num_begun += len(window)
        times = WindowTimes(time.monotonic())
        with closing(_run_window(job, window, actors)) as outcomes:
            for outcome in outcomes:
                if not isinstance(outcome, ShardFault):
                    times.add(time.monotonic())
                yield outcome


def _run_window(job: Job, shards: Sequence[int], actors: Mapping[str, int]) -> Generator[Outcome]:
    dataset = build_dataset(job, shards, actors)
    # Not `iter_batches`: every five seconds it pickles statistics that grow with the shards, for an actor of Ray Data.
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield block_to_outcome(ray.get(entry.ref))
