"""One session of a run, from the pending shards to the data card: the one loop of every command that writes a run.

Called by `pipeline/annotation.py`, `pipeline/executor.py` and `thread_executor.py`. `estimate` does without, because
its run is temporary. An executor does the work and yields receipts, and shards that it sets aside. The session counts
them, checks the lock, writes snapshots on the way, and ends in this order: garbage, last manifest, a look for lost
parts, card. It imports no Ray.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import TransientError
from pseudoris.schemas.run_records import PLAN_FOLDER, Receipt, RunHeader
from pseudoris.schemas.shard import ShardFault
from pseudoris.store.exclusion_rules import plan_files
from pseudoris.store.reports.data_card import BESIDE_NAME, CARD_NAME, write_datacard
from pseudoris.store.runs.copied_pictures import CopyCounts, count_copies
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import (
    LatestReceipts,
    cached_receipts,
    holds_deleted,
    is_manifest_complete,
    write_manifest,
)
from pseudoris.store.runs.pending_work import Committed, Notice, OnEvent, PendingWork, SetAside, ignore
from pseudoris.store.runs.plan import moved_folders
from pseudoris.store.runs.receipts import RunTotals, Totals, list_receipts, read_receipts
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.parts import damaged_receipts, part_sizes, read_whole, refuse_lost

Outcome = Receipt | ShardFault
# Commits the shards of the pending work and yields their outcomes, in any order. Closing it ends the work; committed
# shards are kept.
Executor = Callable[[PendingWork], Generator[Outcome]]

COMMITS_PER_MANIFEST: Final = 1_000


def trim_memory() -> None:
    """Return the free memory of this process to the system.

    Planning and snapshots create and drop millions of small objects. Their allocators keep the memory, in addition to
    what Ray Data needs for a run's shards: 39 MB after a plan of 300,000 images, and 2 MB after this call.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    # Only glibc has `malloc_trim`. With another C library there is nothing more to do.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def next_manifest(num_done: int) -> int:
    """Return the number of commits at which the next snapshot is due: 1,000 more, in long runs a tenth more.

    A snapshot copies all earlier commits, so with a fixed distance its work would grow with the square of the shards.
    With this one, a resume reads at most a tenth of the receipts one by one.
    """
    return num_done + max(COMMITS_PER_MANIFEST, num_done // 10)


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """The state of a run after a session: sums over all committed shards, of which earlier sessions did some.

    `num_images_now` are the images that this session added, 0 in a retry. `wall_s` are the seconds of the executor's
    work, 0.0 if nothing was pending. `is_interrupted` says that a KeyboardInterrupt ended the work; then `copies`, how
    many images are copies of others, is None.
    """

    totals: RunTotals
    num_shards_before: int
    num_images_now: int
    wall_s: float
    is_interrupted: bool
    copies: CopyCounts | None = None


class RunSession:
    """One driver's work on a planned run, under its lock."""

    def __init__(self, location: RunLocation, header: RunHeader, lock: RunLock, *, on_event: OnEvent = ignore) -> None:
        """Read what is committed: one listing, one pass over the receipts; ConfigError if one cannot be used.

        A manifest that holds deleted receipts is replaced.

        `header` was read under the `lock`, which this process holds. `on_event` gets each commit, and notices for the
        user.
        """
        self._location = location
        self._header = header
        self._lock = lock
        self._on_event = on_event
        self._totals = Totals()
        self._latest: dict[int, int] = {}
        for receipt in cached_receipts(location, header=header):
            self._add(receipt)
        self._num_shards_before = len(self._latest)
        self._num_images_before = self._totals.images
        # Holds the shards whose receipts must be read for the next snapshot, because the last one may lack them.
        self._unwritten: set[int] = set()
        self._manifest_due = next_manifest(self._num_shards_before)
        # A deleted receipt may come again with other rows. A snapshot that holds the old one would hide them.
        if holds_deleted(location, self._latest):
            self._write_manifest(header, self._latest)

    @property
    def latest(self) -> Mapping[int, int]:
        """The latest generation by shard."""
        return self._latest

    @property
    def num_images(self) -> int:
        """Images of the committed shards."""
        return self._totals.images

    def receipts(self) -> Iterator[Receipt]:
        """Yield the receipts of `latest`, ordered by shard. It does not list again, so it ignores later commits."""
        return cached_receipts(self._location, commits=self._latest.items(), header=self._header)

    def with_damaged(self, pending: PendingWork) -> PendingWork:
        """Return `pending` and the committed shards that have a damaged part, which no longer count; reads every part.

        ConfigError if a receipt, or a part of the plan, cannot be used.
        """
        # The plan is checked before the tables, because a lost plan cannot be computed again, only copied back.
        for part in plan_files(self._header):
            read_whole(self._location, PLAN_FOLDER, part)
        generations: dict[int, int] = {}
        num_shards = len(self._latest)
        self._unwritten.update(self._latest)
        # The receipts themselves are read, because the snapshot is only a cache.
        for receipt in damaged_receipts(self._location, read_receipts(self._location, [*self._latest.items()])):
            generations[receipt.shard] = self._latest.pop(receipt.shard)
            self._totals.remove(receipt)
        self._num_shards_before, self._num_images_before = len(self._latest), self._totals.images
        found = f"{len(generations):,} of {num_shards:,} shards have missing or damaged parts: they are written again"
        self._on_event(Notice(found if generations else "no part of a table is damaged: there is nothing to repair"))
        return PendingWork([*generations, *pending.shards], generations)

    def execute(self, pending: PendingWork, executor: Executor) -> SessionOutcome:
        """Do `pending`, then finish the run: garbage, last manifest, data card.

        After an interrupt nothing is finished; a later session continues the run.

        Raises:
            ConfigError: The user must correct something, another driver took over the run, or a committed part is lost.
            TransientError: Storage failed, or the executor did not commit every shard; a later session continues.
                Shards that were set aside are named after all others are committed.
        """
        began_s = time.perf_counter()
        is_interrupted, copies = False, None
        try:
            self._work_off(pending, executor)
        except KeyboardInterrupt:
            is_interrupted = True
            self._count_unseen(pending)
        wall_s = time.perf_counter() - began_s
        if not is_interrupted:
            sizes = part_sizes(self._location)
            is_changed = pending.shards or self._unwritten or not is_manifest_complete(self._location, self._latest)
            has_left = any(len(names) > len(self._latest) for names in sizes.values()) or moved_folders(self._location)
            if is_changed or has_left:
                # gc runs before the last manifest, so that a finished run's folders hold only committed parts. The
                # heartbeat raises an error if another driver has the lock, whose retry may have parts without receipts.
                self._lock.heartbeat()
                run_gc(self._location, sizes=sizes, has_ended=True)
            standing = self._standing()
            if is_changed:
                self._write_manifest(*standing)
            # A lost part is reported after gc and manifest are done, but before the card, which reads the tables.
            for part in plan_files(standing[0]):
                refuse_lost(self._location, PLAN_FOLDER, part, {})
            for receipt in self.receipts():
                for table, part in receipt.parts.items():
                    refuse_lost(self._location, table, part, sizes[table])
            header, latest = standing
            receipts = cached_receipts(self._location, commits=latest.items(), header=header)
            copies = count_copies(OpenRun(self._location, header, LatestReceipts(self._location, latest, header)))
            if write_datacard(self._location, header, receipts, copies) == BESIDE_NAME:
                edited = f"{CARD_NAME} was edited by hand, so it is not changed. The new card is {BESIDE_NAME}"
                self._on_event(Notice(edited))
        return SessionOutcome(
            totals=self._totals.sum(),
            num_shards_before=self._num_shards_before,
            num_images_now=self._totals.images - self._num_images_before,
            wall_s=wall_s if pending.shards else 0.0,
            is_interrupted=is_interrupted,
            copies=copies,
        )

    def _work_off(self, pending: PendingWork, executor: Executor) -> None:
        if not pending.shards:
            return
        num_left = len(pending.shards)
        aside = SetAside(self._on_event)
        with closing(executor(pending)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, ShardFault):
                    aside.add(outcome)
                    continue
                aside.end_row()
                self._count(outcome)
                self._unwritten.add(outcome.shard)
                num_left -= 1
                self._lock.check()
                num_done = self._num_shards_before + len(pending.shards) - num_left
                # The last manifest is written after gc: a complete manifest shows the next session that gc has run.
                if num_done >= self._manifest_due and num_left:
                    self._write_manifest(*self._standing())
                    self._manifest_due = next_manifest(num_done)
        aside.check()
        if num_left > 0:
            raise TransientError(f"{num_left} shards were not committed; run the same command again to continue")

    def _count(self, receipt: Receipt) -> None:
        replaced = None
        if receipt.shard in self._latest:
            (replaced,) = read_receipts(self._location, [(receipt.shard, self._latest[receipt.shard])])
            self._totals.remove(replaced)
        self._add(receipt)
        self._on_event(Committed(receipt, replaced))

    def _add(self, receipt: Receipt) -> None:
        self._latest[receipt.shard] = receipt.generation
        self._totals.add(receipt)

    def _count_unseen(self, pending: PendingWork) -> None:
        """Count the shards that were committed before an interrupt, but whose receipts did not reach this process."""
        counted, latest = self._latest, list_receipts(self._location)
        # A repair keeps the generation of its shard, so a repair whose receipt was not seen cannot be counted.
        before = {**dict.fromkeys(pending.shards, -1), **pending.base_generations, **counted}
        unseen = [(shard, latest[shard]) for shard in pending.shards if latest.get(shard, -1) > before[shard]]
        for receipt in read_receipts(self._location, unseen):
            self._count(receipt)

    def _standing(self) -> tuple[RunHeader, Mapping[int, int]]:
        """Return the header and the latest generation by shard as they stand in the storage.

        A second driver may have taken over, extended the plan or committed since this session began. Its work must not
        be missing from the manifest and the card.
        """
        return require_header(self._location), list_receipts(self._location)

    def _write_manifest(self, header: RunHeader, latest: Mapping[int, int]) -> None:
        write_manifest(self._location, cached_receipts(self._location, self._unwritten, latest.items(), header))
        self._unwritten.clear()
        trim_memory()
