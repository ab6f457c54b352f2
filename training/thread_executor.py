"""Runs that threads of one process write, without Ray: imports and the recipes of PPT."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pseudoris.images.pixels import import_plugins
from pseudoris.images.prover import Prover
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.run_records import PlanEntry, Receipt, RunHeader
from pseudoris.schemas.shard import Shard
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import PlannedRun
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.store.runs.session import OnProgress, commit_missing
from pseudoris.store.threads import map_in_threads

# The plan of a shard to the shard with masks and expressions; called by several threads at once.
MakeShard = Callable[[Sequence[PlanEntry]], Shard]


@dataclass(frozen=True, slots=True)
class WrittenRun:
    """The state of a run after a call: totals over all of its shards, of which earlier calls committed some."""

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
    """Make and commit the missing shards of a run, `num_workers` at a time, and finish it; `lock` is held on it.

    The same call continues where one ended, also after storage failed. `on_progress` is called after each commit.
    """
    header = planned.header

    def commit(number: int) -> Receipt:
        entries = read_shard_plan(location, header, number)
        outcome = commit_shard(
            location,
            make(entries),
            planned_ids=[entry.image_id for entry in entries],
            embed_images=header.config.shards.embed_images,
            provenance=Provenance(mixed=planned.mixed, header_sha256=header.sha256),
        )
        return outcome.receipt

    outcome = commit_missing(
        location,
        header,
        lock,
        lambda pending: map_in_threads(commit, pending.shards, num_workers),
        on_progress=on_progress,
    )
    return WrittenRun(header, outcome.totals, outcome.num_shards_before)


@contextmanager
def proving(limits: ImagesConfig, count: int, *, has_hash: bool = False) -> Iterator[queue.SimpleQueue[Prover]]:
    """Give one prover a worker; each has a child process of its own, and serves one thread at a time.

    This process imports the plug-ins of `limits` too, as it decodes with them afterwards; with `has_hash` perceptual
    hashes are computed.
    """
    import_plugins(limits.decoder_plugins)
    provers: queue.SimpleQueue[Prover] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            provers.put(stack.enter_context(Prover(limits, has_hash=has_hash)))
        yield provers
