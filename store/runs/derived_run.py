"""Writes a run out of the tables of a complete one, shard by shard: a refilter, or a person's corrections.

The plan equals the parent's, byte for byte. Each shard is committed like any other: parts first, then the receipt,
created once. If it is killed, the same call continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.header_sections import AuditRecord
from pseudoris.schemas.run_records import Identity, Origin, Receipt, RunHeader, ShardCounts
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_parts, make_receipt
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.pending_work import Committed, Notice, PendingWork, RunEvent, missing_shards
from pseudoris.store.runs.planned_run import Parent, PlannedRun, plan_as_parent
from pseudoris.store.runs.session import Executor, RunSession, SessionOutcome
from pseudoris.store.threads import map_in_threads

# Each thread holds the tables of one shard; with embedded images these are `shards.max_bytes` or more.
DEFAULT_THREADS: Final = 4

# Shards committed so far, shards in all.
OnProgress = Callable[[int, int], None]
# The new run's header, the parent's receipt of a shard, and the bytes of its parts by table: what the new run has.
Rewrite = Callable[[RunHeader, Receipt, dict[str, bytes]], tuple[Mapping[str, bytes], ShardCounts]]


@dataclass(frozen=True, slots=True)
class Derivation:
    """What a run is made from, and how; the fields are those of `plan_as_parent`.

    Attributes:
        parent: Complete, and only read.
        rewrite: Called by several threads.
        audit: What chose the configuration.
    """

    parent: Parent
    origin: Origin
    identity: Identity
    config: RunConfig
    rewrite: Rewrite
    audit: AuditRecord | None = None


def derive_run(
    target: RunLocation,
    derivation: Derivation,
    *,
    num_threads: int,
    allow_mixed: bool,
    on_progress: OnProgress,
    on_notice: Callable[[str], None],
) -> tuple[PlannedRun, SessionOutcome]:
    """Write or continue the run at `target`; `num_threads` shards are in memory at once.

    `on_notice` is told who holds the run, before a wait, and of a data card that was edited.

    Raises:
        ConfigError: The parent is not complete, or the target holds another run.
        TransientError: Storage failed; the same call continues.
    """
    made = derivation
    target.probe()

    def tell(event: RunEvent) -> None:
        if isinstance(event, Committed):
            on_progress(len(session.latest), planned.header.num_shards)
        elif isinstance(event, Notice):
            on_notice(event.text)

    with RunLock.held(target, on_wait=on_notice) as lock:
        planned = plan_as_parent(
            target,
            made.parent,
            origin=made.origin,
            identity=made.identity,
            config=made.config,
            allow_mixed=allow_mixed,
            audit=made.audit,
        )
        session = RunSession(target, lock, on_event=tell)
        on_progress(len(session.latest), planned.header.num_shards)
        pending = missing_shards(planned.header, session.latest)
        outcome = session.execute(pending, _executor(target, made, planned, num_threads))
    if outcome.is_interrupted:
        raise KeyboardInterrupt
    return planned, outcome


def _executor(target: RunLocation, made: Derivation, planned: PlannedRun, num_threads: int) -> Executor:
    """Return an executor that commits the parent's shards, rewritten: several at once, in plan order."""
    parent = made.parent

    def commit(before: Receipt) -> Receipt:
        contents = {table: parent.read_part(table, before.parts[table]) for table in SCHEMAS}
        written, counts = made.rewrite(planned.header, before, contents)
        # No seconds and no nodes: no stage has worked on it, so equal commits differ in digests alone.
        mixed = tuple(dict.fromkeys((*before.mixed, *planned.mixed)))
        provenance = Provenance(degraded=before.degraded, mixed=mixed, header_sha256=planned.header.sha256)
        receipt = make_receipt(Shard(before.shard, 0, ()), written, counts, provenance)
        return commit_parts(target, written, receipt).receipt

    def execute(pending: PendingWork) -> Generator[Receipt]:
        lacking = frozenset(pending.shards)
        before = (receipt for receipt in parent.receipts(planned.parent) if receipt.shard in lacking)
        yield from map_in_threads(commit, before, num_threads)

    return execute
