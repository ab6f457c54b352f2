"""Writes runs by threads of one process, without Ray. For imports, `refilter` and `training/ppt`; `cli` shows results.

A derived run is written out of the tables of others, shard by shard: a refilter, a person's corrections, several runs
in one.
Equal work must give equal bytes, whatever the number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import COUNTED_BY_NAME, PlanEntry, Receipt, RunHeader, ShardCounts
from pseudoris.schemas.shard import Shard, ShardFault
from pseudoris.schemas.tables import MASKS, SCHEMAS
from pseudoris.store.runs.combination import Combination
from pseudoris.store.runs.commit import Provenance, as_quarantined, commit_parts, commit_shard, make_receipt
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME, CopyCounts
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.parents import DerivedShard, Parent
from pseudoris.store.runs.pending_work import Committed, Notice, PendingWork, RunEvent, missing_shards
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, plan_run
from pseudoris.store.runs.receipts import RunTotals, read_receipt
from pseudoris.store.sessions.session import Outcome, RunSession
from pseudoris.store.tables.kept_clauses import KeptClause, kept_clauses

logger = logging.getLogger(__name__)

# By default this many threads work. They are few, because each holds a shard's tables with all embedded images.
DEFAULT_THREADS: Final = 4

# The function gets the number of images committed so far, and the number of all images.
OnProgress = Callable[[int, int], None]
# The function makes a shard from its plan entries. Several threads call it at once.
MakeShard = Callable[[Sequence[PlanEntry]], Shard]
# The function gets the new header, the shard, and the parent's parts by table; it returns new parts and counts.
Rewrite = Callable[[RunHeader, DerivedShard, dict[str, bytes]], tuple[Mapping[str, bytes], ShardCounts]]
# The function yields the number of each pending shard, and a function that makes and commits this shard.
_Work = Callable[[PendingWork], Iterable[tuple[int, Callable[[], Receipt]]]]


@dataclass(frozen=True)
class WrittenRun:
    """The state of a run after a call.

    Attributes:
        header: Its header.
        totals: Sums over all of its shards.
        num_shards_before: Shards that an earlier call committed.
        copies: How many of its images are copies of others.
    """

    header: RunHeader
    totals: RunTotals
    num_shards_before: int
    copies: CopyCounts | None

    @property
    def clauses(self) -> tuple[KeptClause, ...]:
        """What it keeps, of each sort of expression; of a combined run by the runs that differ."""
        return kept_clauses(self.header)


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
        shard = make(entries)
        before = read_receipt(location, number, 0) if planned.is_repair else None
        return commit_shard(
            location,
            shard if before is None else as_quarantined(location, shard, before),
            planned_ids=[entry.image_id for entry in entries],
            embed_images=header.config.shards.embed_images,
            provenance=Provenance(mixed=planned.mixed, header_sha256=header.sha256),
            is_repair=planned.is_repair,
        )

    def work(pending: PendingWork) -> Iterable[tuple[int, Callable[[], Receipt]]]:
        return ((number, partial(commit, number)) for number in pending.shards)

    return _written(location, planned, lock, work, num_workers, on_progress=on_progress, on_notice=logger.warning)


def derive_run(
    location: RunLocation,
    parent: Parent | Combination,
    request: RunRequest,
    rewrite: Rewrite,
    *,
    num_workers: int,
    on_progress: OnProgress,
    on_wait: Callable[[str], None],
) -> tuple[PlannedRun, WrittenRun]:
    """Write or continue a run whose shards are the parent's, or those of several parents, rewritten.

    `num_workers` threads call `rewrite`. `on_wait` is told who holds the run, before a wait, and of an edited data
    card. ConfigError if the parent is not complete or there is another run; TransientError if storage failed.
    """
    location.probe()
    with RunLock.held(location, on_wait=on_wait) as lock:
        planned = plan_run(location, replace(request, lock=lock), parent)
        header = planned.header
        if (due := header.left_out) is not None:
            held = location.read_if_there(LEFT_OUT_NAME)
            # A damaged list is written again on a repair alone, as damaged parts are.
            if held is None or (planned.is_repair and sha256_hex(held) != due.sha256):
                location.replace(LEFT_OUT_NAME, parent.left_out_list() or b"")
                on_wait(f"{LEFT_OUT_NAME} was missing or damaged: it is written again")

        def commit(shard: DerivedShard) -> Receipt:
            before = shard.receipt
            contents = {table: shard.parent.read_part(table, before.parts[table]) for table in SCHEMAS}
            written, counts = rewrite(header, shard, contents)
            # No stage has worked on the shard, so its receipt has no seconds and no nodes.
            mixed = tuple(dict.fromkeys((*before.mixed, *planned.mixed)))
            provenance = Provenance(degraded=before.degraded, mixed=mixed, header_sha256=header.sha256)
            receipt = make_receipt(Shard(shard.number, 0, ()), written, counts, provenance)
            is_same = shard.name or receipt.parts[MASKS].sha256 == before.parts[MASKS].sha256
            # What was counted for images that are left out cannot be told apart.
            if is_same and receipt.counts.images == before.counts.images:
                receipt = receipt.model_copy(update={name: getattr(before, name) for name in COUNTED_BY_NAME})
            return commit_parts(location, written, receipt, is_repair=planned.is_repair)

        def work(pending: PendingWork) -> Iterable[tuple[int, Callable[[], Receipt]]]:
            lacking = frozenset(pending.shards)
            return ((each.number, partial(commit, each)) for each in parent.derived(header) if each.number in lacking)

        return planned, _written(location, planned, lock, work, num_workers, on_progress=on_progress, on_notice=on_wait)


def _written(
    location: RunLocation,
    planned: PlannedRun,
    lock: RunLock,
    work: _Work,
    num_workers: int,
    *,
    on_progress: OnProgress,
    on_notice: Callable[[str], None],
) -> WrittenRun:
    """Commit the missing shards, and repair the damaged ones if asked, in one session; raises an interrupt again."""
    header = planned.header

    def commit(pending: PendingWork, item: tuple[int, Callable[[], Receipt]]) -> Outcome:
        try:
            return item[1]()
        except ConfigError as error:
            if item[0] not in pending.base_generations:
                raise
            # A damaged shard that cannot be repaired is set aside, so that the repair of other shards goes on.
            return ShardFault(item[0], str(error), is_config=True, is_proven=True)

    def execute(pending: PendingWork) -> Generator[Outcome]:
        return map_in_threads(partial(commit, pending), work(pending), num_workers)

    def tell(event: RunEvent) -> None:
        if isinstance(event, Committed):
            on_progress(session.num_images, header.num_images)
        elif isinstance(event, Notice):
            on_notice(event.text)

    session = RunSession(location, header, lock, on_event=tell)
    on_progress(session.num_images, header.num_images)
    pending = missing_shards(header, session.latest)
    outcome = session.execute(session.with_damaged(pending) if planned.is_repair else pending, execute)
    if outcome.is_interrupted:
        raise KeyboardInterrupt
    return WrittenRun(header, outcome.totals, outcome.num_shards_before, outcome.copies)
