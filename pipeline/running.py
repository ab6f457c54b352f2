"""One command from images to tables: plan or resume, run the graph, commit, clean up, sum up."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace

from ray.exceptions import RayError

from pipeline.cluster import connected, node_resources
from pipeline.failures import let_go, original_error
from pipeline.graph import run_shards
from pipeline.interrupts import Interrupts, interruptible
from pipeline.job import Job, Retry
from pipeline.memory import give_back_memory
from pipeline.metering import RunMeter
from pipeline.resources import check_object_store, plan_actors
from pipeline.resuming import plan_or_resume
from pipeline.retrying import num_to_retry
from pipeline.starting import Start, check_packages_here, check_start
from pipeline.summary import (
    Committed,
    Notice,
    OnEvent,
    Planned,
    Retried,
    RetryTally,
    RunEvent,
    RunSummary,
    table_globs,
)
from schemas.config import RunConfig
from schemas.errors import TransientError
from schemas.run import Receipt
from store.datacard import CARD_NAME, write_datacard
from store.gc import run_gc
from store.location import RunLocation
from store.lock import RunLock
from store.manifest import cached_receipts, is_manifest_complete, write_manifest
from store.receipts import list_receipts, read_receipts
from store.sources import open_source
from store.totals import Totals

logger = logging.getLogger(__name__)

COMMITS_PER_MANIFEST = 1_000


def next_manifest(num_done: int) -> int:
    """Return at how many commits the next snapshot is due: 1,000 more, in long runs a tenth more.

    A snapshot lists and copies all commits before it. At a fixed distance that would grow with the square of the
    shards, and a resume reads at most a tenth of the receipts one by one.
    """
    return num_done + max(COMMITS_PER_MANIFEST, num_done // 10)


def _ignore(event: RunEvent) -> None:
    """Take an event and do nothing."""


def annotate(
    source: str,
    out: str,
    config: RunConfig,
    *,
    limit: int | None = None,
    start: Start | None = None,
    on_event: OnEvent = _ignore,
) -> RunSummary:
    """Annotate SOURCE into OUT, or continue where an earlier start of the same run ended.

    Ctrl-C or SIGTERM while shards are at work ends the start cleanly: the summary says `interrupted`, and
    the same call continues. Before that it raises KeyboardInterrupt, with nothing begun.

    Args:
        source: A folder, glob, fsspec url, WebDataset tars or Parquet.
        out: A local path or fsspec url; a run that it holds is continued.
        config: The resolved configuration.
        limit: Short for `Start(limit=…)`.
        start: What else this start is to do.
        on_event: Told of the plan, of each commit as it lands, and of what the user should know.

    Raises:
        ConfigError: The user must mend something; nothing was taken or computed, unless the message
            says that a worker found it.
        TransientError: Storage or the cluster failed; the same call continues.
    """
    with interruptible() as interrupts:
        return _annotate(source, out, config, start=start or Start(limit), on_event=on_event, interrupts=interrupts)


def _annotate(
    source: str, out: str, config: RunConfig, *, start: Start, on_event: OnEvent, interrupts: Interrupts
) -> RunSummary:
    check_packages_here(config)
    location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
    check_start(location, start)
    # Before anything is written or started: most mistakes are in a path.
    listing = open_source(source, config.source, exclude=location.root, limits=config.placement.storage)
    location.probe()
    with _held(location, on_event) as lock, connected(config.placement.address) as may_grow:
        actors = plan_actors(node_resources(), config)
        header = plan_or_resume(
            listing, location, config, limit=start.limit, on_event=on_event, is_extended=start.is_extension
        )
        give_back_memory()
        check_object_store(node_resources(), config, actors, header.max_shard_bytes)
        interrupts.check()
        job = Job(listing.name, location, header, config, may_grow=may_grow)
        if start.is_retry:
            return _Retries(job, lock, on_event, interrupts, start.reasons).run(actors)
        return _Start(job, lock, on_event, interrupts).run(actors)


class _Start:
    """One start of a planned run: what was done before it, and what it does."""

    def __init__(self, job: Job, lock: RunLock, on_event: OnEvent, interrupts: Interrupts) -> None:
        self._job = job
        self._lock = lock
        self._interrupts = interrupts
        self._on_event = on_event
        self._totals = Totals()
        self._meter = RunMeter(job.location.root)
        # By shard, the generation that stands; one listing tells it.
        self._done: dict[int, int] = {}
        for receipt in cached_receipts(job.location):
            self._recall(receipt)
        self._num_shards_before = len(self._done)
        self._num_images_before = self._totals.images
        self._num_commits = 0
        self._num_pending = 0
        # Committed by this start and in no snapshot yet.
        self._unwritten: set[int] = set()
        self._manifest_due = next_manifest(self._num_shards_before)

    def run(self, actors: dict[str, int]) -> RunSummary:
        """Run what is left, and return how the run stands then."""
        pending = self._pending()
        self._num_pending = len(pending)
        self._on_event(self._planned(pending, actors))
        started = time.perf_counter()
        interrupted = False
        try:
            self._work_off(pending, actors)
        except KeyboardInterrupt:
            interrupted = True
            # Some were committed whose receipts had not reached this process.
            for receipt in read_receipts(self._job.location, self._unseen(pending)):
                self._count(receipt)
        wall_s = time.perf_counter() - started
        if not interrupted and (pending or not is_manifest_complete(self._job.location, self._done)):
            # Garbage first: after the last manifest a glob over a table's folder is exact.
            run_gc(self._job.location)
            self._write_manifest()
        if not interrupted:
            self._write_card()
        return self._summary(wall_s if pending else 0.0, interrupted=interrupted)

    def _work_off(self, pending: Sequence[int], actors: dict[str, int]) -> None:
        if not pending:
            return
        ours: BaseException | None = None
        try:
            with closing(run_shards(self._job, pending, actors)) as receipts:
                for receipt in receipts:
                    self._take(receipt)
        except RayError as error:
            logger.debug("what Ray raised", exc_info=True)
            ours = original_error(error)
        if ours is not None:
            raise let_go(ours)
        if self._num_commits < len(pending):
            missing = len(pending) - self._num_commits
            raise TransientError(f"{missing} shards came back without a commit; run the same command again")

    def _pending(self) -> list[int]:
        """Return the shards to compute."""
        return [shard for shard in range(self._job.header.num_shards) if shard not in self._done]

    def _planned(self, pending: Sequence[int], actors: dict[str, int]) -> Planned:
        header = self._job.header
        return Planned(
            num_images=header.num_images,
            num_images_done=self._num_images_before,
            num_shards=header.num_shards,
            num_shards_done=self._num_shards_before,
            actors=actors,
        )

    def _unseen(self, pending: Sequence[int]) -> list[tuple[int, int]]:
        """Return shard and generation of what stands of `pending` and was not counted."""
        return [commit for commit in list_receipts(self._job.location).items() if commit[0] not in self._done]

    def _recall(self, receipt: Receipt) -> None:
        """Take note of what stood before this start."""
        self._note(receipt)

    def _note(self, receipt: Receipt) -> None:
        self._done[receipt.shard] = receipt.generation
        self._totals.add(receipt)

    def _count(self, receipt: Receipt) -> RunEvent:
        """Add what this start has committed; return the event that tells of it."""
        self._note(receipt)
        return Committed(receipt)

    def _take(self, receipt: Receipt) -> None:
        self._on_event(self._count(receipt))
        self._meter.count(receipt)
        self._num_commits += 1
        self._unwritten.add(receipt.shard)
        self._lock.check()
        self._interrupts.check()
        num_done = self._num_shards_before + self._num_commits
        # The last one is due after gc, and only then: a start that finds it complete does nothing more.
        if num_done >= self._manifest_due and self._num_commits < self._num_pending:
            self._write_manifest()
            self._manifest_due = next_manifest(num_done)

    def _write_manifest(self) -> None:
        write_manifest(self._job.location, cached_receipts(self._job.location, self._unwritten))
        self._unwritten.clear()
        give_back_memory()

    def _write_card(self) -> None:
        card = write_datacard(self._job.location)
        if card.is_beside:
            self._on_event(Notice(f"{CARD_NAME} was edited by hand and stays as it is; the new one is {card.path}"))

    def _num_images_now(self) -> int:
        return self._totals.images - self._num_images_before

    def _summary(self, wall_s: float, *, interrupted: bool) -> RunSummary:
        header = self._job.header
        return RunSummary(
            out=self._job.location.root,
            totals=self._totals.sum(),
            num_planned_images=header.num_images,
            num_planned_shards=header.num_shards,
            num_shards_before=self._num_shards_before,
            num_images_now=self._num_images_now(),
            wall_s=wall_s,
            tables=table_globs(self._job.location.uri),
            interrupted=interrupted,
        )


class _Retries(_Start):
    """A start that computes the images in quarantine again, and nothing else."""

    def __init__(
        self, job: Job, lock: RunLock, on_event: OnEvent, interrupts: Interrupts, reasons: frozenset[str] | None
    ) -> None:
        self._reasons = reasons
        # By shard, the generation that the retry starts from; its receipt is read when the next one comes.
        self._before: dict[int, int] = {}
        self._num_asked = 0
        super().__init__(job, lock, on_event, interrupts)
        self._job = replace(job, retry=Retry(dict(self._before), reasons))
        self._tally = RetryTally()

    def _recall(self, receipt: Receipt) -> None:
        super()._recall(receipt)
        num_images = num_to_retry(receipt, self._reasons)
        if num_images:
            self._before[receipt.shard] = receipt.generation
            self._num_asked += num_images

    def _pending(self) -> list[int]:
        if not self._before:
            which = "" if self._reasons is None else f" as {' or '.join(sorted(self._reasons))}"
            self._on_event(Notice(f"no image is quarantined{which}: there is nothing to retry"))
        return list(self._before)

    def _planned(self, pending: Sequence[int], actors: dict[str, int]) -> Planned:
        return Planned(self._num_asked, 0, len(pending), 0, actors, is_retry=True)

    def _unseen(self, pending: Sequence[int]) -> list[tuple[int, int]]:
        standing = list_receipts(self._job.location)
        retried = self._job.retry.generations if self._job.retry else {}
        left = [(shard, standing.get(shard, 0)) for shard in pending if shard in self._before]
        return [(shard, generation) for shard, generation in left if generation > retried[shard]]

    def _count(self, receipt: Receipt) -> RunEvent:
        (before,) = read_receipts(self._job.location, [(receipt.shard, self._before.pop(receipt.shard))])
        num_images = num_to_retry(before, self._reasons)
        num_recovered = before.counts.quarantined - receipt.counts.quarantined
        self._totals.remove(before)
        self._note(receipt)
        self._tally = RetryTally(
            num_images=self._tally.num_images + num_images,
            num_recovered=self._tally.num_recovered + num_recovered,
            num_shards=self._tally.num_shards + 1,
            num_shards_changed=self._tally.num_shards_changed + (receipt.generation > before.generation),
        )
        return Retried(receipt, num_images, num_recovered)

    def _num_images_now(self) -> int:
        return self._tally.num_images

    def _summary(self, wall_s: float, *, interrupted: bool) -> RunSummary:
        return replace(super()._summary(wall_s, interrupted=interrupted), retry=self._tally)


def _held(location: RunLocation, on_event: OnEvent) -> AbstractContextManager[RunLock]:
    return RunLock.held(location, on_wait=lambda text: on_event(Notice(text)))
