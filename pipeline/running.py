"""One command from images to tables: plan or resume, run the graph, commit, clean up, sum up."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from types import FrameType

from ray.exceptions import RayError

from pipeline.cluster import connected, node_resources
from pipeline.failures import original_error
from pipeline.graph import run_shards
from pipeline.job import Job
from pipeline.resources import plan_actors
from pipeline.resuming import plan_or_resume
from pipeline.sources import open_source
from pipeline.summary import Committed, Notice, OnEvent, Planned, RunEvent, RunSummary, table_globs
from schemas.config import RunConfig
from schemas.errors import TransientError
from schemas.run import Receipt
from store.gc import run_gc
from store.location import RunLocation
from store.lock import RunLock
from store.manifest import cached_receipts, read_manifest, write_manifest
from store.receipts import list_receipts, read_receipts
from store.totals import Totals

logger = logging.getLogger(__name__)

COMMITS_PER_MANIFEST = 1_000


def _ignore(event: RunEvent) -> None:
    """Take an event and do nothing."""


def annotate(
    source: str, out: str, config: RunConfig, *, limit: int | None = None, on_event: OnEvent = _ignore
) -> RunSummary:
    """Annotate SOURCE into OUT, or continue where an earlier start of the same run ended.

    Ctrl-C or SIGTERM while shards are at work ends the start cleanly: the summary says `interrupted`, and
    the same call continues. Before that it raises KeyboardInterrupt, with nothing begun.

    Args:
        source: A folder, glob, fsspec url, WebDataset tars or Parquet.
        out: A local path or fsspec url; a run that it holds is continued.
        config: The resolved configuration.
        limit: Plan the first so many images only. A plan that stands is not changed by it.
        on_event: Told of the plan, of each commit as it lands, and of what the user should know.

    Raises:
        ConfigError: The user must mend something; nothing was taken or computed, unless the message
            says that a worker found it.
        TransientError: Storage or the cluster failed; the same call continues.
    """
    location = RunLocation.open(out, config.source.endpoint_url)
    # Before anything is written or started: most mistakes are in a path.
    listing = open_source(source, config.source, exclude=location.root)
    location.probe()
    with _held(location, on_event) as lock, connected(config.placement.address):
        actors = plan_actors(node_resources(), config)
        header = plan_or_resume(listing, location, config, limit=limit, on_event=on_event)
        return _Start(Job(listing.name, location, header, config), lock, on_event).run(actors)


class _Start:
    """One start of a planned run: what was done before it, and what it does."""

    def __init__(self, job: Job, lock: RunLock, on_event: OnEvent) -> None:
        self._job = job
        self._lock = lock
        self._on_event = on_event
        self._totals = Totals()
        self._done: set[int] = set()
        self._count(cached_receipts(job.location))
        self._num_shards_before = len(self._done)
        self._num_images_before = self._totals.images

    def run(self, actors: dict[str, int]) -> RunSummary:
        """Run what is left, and return how the run stands then."""
        header = self._job.header
        pending = [shard for shard in range(header.num_shards) if shard not in self._done]
        self._on_event(
            Planned(
                num_images=header.num_images,
                num_images_done=self._num_images_before,
                num_shards=header.num_shards,
                num_shards_done=self._num_shards_before,
                actors=actors,
            )
        )
        started = time.perf_counter()
        interrupted = False
        try:
            with _sigterm_interrupts():
                self._work_off(pending, actors)
        except KeyboardInterrupt:
            interrupted = True
            # Some were committed whose receipts had not reached this process.
            standing = list_receipts(self._job.location).items()
            self._count(read_receipts(self._job.location, [it for it in standing if it[0] not in self._done]))
        wall_s = time.perf_counter() - started
        if not interrupted and (pending or not self._is_manifest_complete()):
            # Garbage first: after the last manifest a glob over a table's folder is exact.
            run_gc(self._job.location)
            write_manifest(self._job.location)
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
            # Its frames, and cycles in Ray Data, would keep the actors and their CPUs taken. What went
            # wrong in a worker stands in the text.
            ours.__cause__ = ours.__context__ = None
            gc.collect()
            raise ours.with_traceback(None)
        if len(self._done) < self._job.header.num_shards:
            missing = self._job.header.num_shards - len(self._done)
            raise TransientError(f"{missing} shards came back without a commit; run the same command again")

    def _count(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            self._done.add(receipt.shard)
            self._totals.add(receipt)

    def _take(self, receipt: Receipt) -> None:
        self._count([receipt])
        self._on_event(Committed(receipt))
        self._lock.check()
        if len(self._done) % COMMITS_PER_MANIFEST == 0:
            write_manifest(self._job.location)

    def _is_manifest_complete(self) -> bool:
        return len(read_manifest(self._job.location)) == self._job.header.num_shards

    def _summary(self, wall_s: float, *, interrupted: bool) -> RunSummary:
        header = self._job.header
        return RunSummary(
            out=self._job.location.root,
            totals=self._totals.sum(),
            num_planned_images=header.num_images,
            num_planned_shards=header.num_shards,
            num_shards_before=self._num_shards_before,
            num_images_now=self._totals.images - self._num_images_before,
            wall_s=wall_s,
            tables=table_globs(self._job.location.uri),
            interrupted=interrupted,
        )


def _held(location: RunLocation, on_event: OnEvent) -> AbstractContextManager[RunLock]:
    return RunLock.held(location, on_wait=lambda text: on_event(Notice(text)))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C inside the block; Ray's own handler would end the process halfway."""
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread alone, and only it may ask for them.
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
