"""A planned run from its shards to its data card: made, committed in any order, finished as the pipeline finishes one.

The same call again continues where one ended. Shards are committed in any order, their bytes are the same.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from schemas.config import ImagesConfig
from schemas.plan import PlanEntry
from schemas.run import Receipt, RunHeader
from schemas.shard import Shard
from store.commit import Provenance, commit_shard
from store.datacard import BESIDE_NAME, CARD_NAME, write_datacard
from store.gc import run_gc
from store.location import RunLocation
from store.lock import RunLock
from store.manifest import cached_receipts, is_manifest_complete, write_manifest
from store.plan import read_shard_plan
from store.receipts import list_receipts
from store.totals import RunTotals, Totals
from training.runs.planning import PlannedRun
from workers.images.proving import Prover

logger = logging.getLogger(__name__)

# Images committed so far, images in all.
OnProgress = Callable[[int, int], None]
# The plan of a shard to the shard with masks and expressions; called by several threads at once.
MakeShard = Callable[[Sequence[PlanEntry]], Shard]


@dataclass(frozen=True, slots=True)
class WrittenRun:
    """How a run stands after a call.

    Attributes:
        header: Of the run.
        totals: Over all of its shards.
        num_shards_before: Committed by earlier calls.
    """

    header: RunHeader
    totals: RunTotals
    num_shards_before: int


def write_run(
    location: RunLocation,
    planned: PlannedRun,
    make: MakeShard,
    *,
    lock: RunLock,
    on_progress: OnProgress,
    num_workers: int = 1,
) -> WrittenRun:
    """Make and commit what is missing of a run, and finish it.

    Args:
        location: Where it lives.
        planned: Its plan.
        make: Makes a shard.
        lock: Held on it.
        on_progress: Told after each commit.
        num_workers: Shards at work at a time; decides no byte.

    Raises:
        ConfigError: The user must mend something.
        TransientError: Storage failed; the same call continues.
    """
    done = list_receipts(location)
    num_images = sum(receipt.counts.images for receipt in cached_receipts(location)) if done else 0
    on_progress(num_images, planned.header.num_images)
    pending = [shard for shard in range(planned.header.num_shards) if shard not in done]
    with closing(_commits(location, planned, make, pending, num_workers)) as receipts:
        for receipt in receipts:
            lock.check()
            num_images += receipt.counts.images
            on_progress(num_images, planned.header.num_images)
    _finish(location)
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    return WrittenRun(planned.header, totals.sum(), len(done))


@contextmanager
def proving(limits: ImagesConfig, count: int) -> Iterator[queue.SimpleQueue[Prover]]:
    """Give one prover a worker; each has a child process of its own, and serves one thread at a time."""
    provers: queue.SimpleQueue[Prover] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            provers.put(stack.enter_context(Prover(limits)))
        yield provers


def _commits(
    location: RunLocation, planned: PlannedRun, make: MakeShard, shards: list[int], num_workers: int
) -> Generator[Receipt]:
    """Yield the receipt of each shard as it is committed, in any order."""
    if not shards:
        return

    def commit(number: int) -> Receipt:
        entries = read_shard_plan(location, planned.header, number)
        outcome = commit_shard(
            location,
            make(entries),
            planned_ids=[entry.image_id for entry in entries],
            embed_images=planned.header.config.shards.embed_images,
            provenance=Provenance(mixed=planned.mixed),
        )
        return outcome.receipt

    with ThreadPoolExecutor(min(num_workers, len(shards))) as pool:
        futures = [pool.submit(commit, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # On the way out: what has not begun is not begun.
            pool.shutdown(wait=True, cancel_futures=True)


def _finish(location: RunLocation) -> None:
    """Leave a finished run as the pipeline leaves one: garbage first, so that a glob over a table is exact."""
    if not is_manifest_complete(location, list_receipts(location)):
        run_gc(location)
        write_manifest(location)
    if write_datacard(location).is_beside:
        logger.warning("%s was edited by hand and stays as it is; the new one is %s", CARD_NAME, BESIDE_NAME)
