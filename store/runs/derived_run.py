"""Writes a run out of the tables of a complete one, shard by shard: a refilter, or a person's corrections.

The plan equals the parent's, byte for byte. Each shard is committed like any other: parts first, then the receipt,
created once. If it is killed, the same call continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Final

from pseudoris.schemas.run_records import Receipt, RunHeader, ShardCounts
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_parts, make_receipt
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.pending_work import PendingWork
from pseudoris.store.runs.planned_run import Parent, PlannedRun
from pseudoris.store.runs.session import OnProgress, SessionOutcome, commit_missing
from pseudoris.store.threads import map_in_threads

# Each thread holds the tables of one shard; with embedded images these are `shards.max_bytes` or more.
DEFAULT_THREADS: Final = 4

# The new run's header, the parent's receipt of a shard, and the bytes of its parts by table: what the new run has.
Rewrite = Callable[[RunHeader, Receipt, dict[str, bytes]], tuple[Mapping[str, bytes], ShardCounts]]


def derive_run(
    target: RunLocation,
    parent: Parent,
    plan: Callable[[], PlannedRun],
    rewrite: Rewrite,
    *,
    num_threads: int,
    on_progress: OnProgress,
    on_notice: Callable[[str], None],
) -> tuple[PlannedRun, SessionOutcome]:
    """Write or continue the run at `target`; `num_threads` shards are in memory at once, each in a thread.

    `plan` is `plan_as_parent` with its arguments; it is called under the lock. `on_notice` is told who holds the run,
    before a wait, and of a data card that was edited.

    Raises:
        ConfigError: The parent is not complete, or the target holds another run.
        TransientError: Storage failed; the same call continues.
    """
    target.probe()
    with RunLock.held(target, on_wait=on_notice) as lock:
        planned = plan()
        header = planned.header

        def commit(before: Receipt) -> Receipt:
            contents = {table: parent.read_part(table, before.parts[table]) for table in SCHEMAS}
            written, counts = rewrite(header, before, contents)
            # No seconds and no nodes: no stage has worked on it, so equal commits differ in digests alone.
            mixed = tuple(dict.fromkeys((*before.mixed, *planned.mixed)))
            provenance = Provenance(degraded=before.degraded, mixed=mixed, header_sha256=header.sha256)
            receipt = make_receipt(Shard(before.shard, 0, ()), written, counts, provenance)
            return commit_parts(target, written, receipt).receipt

        def execute(pending: PendingWork) -> Generator[Receipt]:
            lacking = frozenset(pending.shards)
            before = (receipt for receipt in parent.receipts(planned.parent) if receipt.shard in lacking)
            return map_in_threads(commit, before, num_threads)

        return planned, commit_missing(target, header, lock, execute, on_progress=on_progress, on_notice=on_notice)
