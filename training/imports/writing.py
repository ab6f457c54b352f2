"""An import from its files to a finished run: planned, read, committed shard by shard, as any run is. No Ray.

The same call again continues where one ended. Shards are committed in any order, their bytes are the same.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

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
from store.sources.shards import read_shard
from store.totals import RunTotals, Totals
from training.imports.files import read_annotation
from training.imports.masks import STAGE_IMPORT, annotate_image
from training.imports.planning import PlannedImport, open_images, plan_import
from training.imports.request import ImportRequest
from workers.images.proving import Prover

logger = logging.getLogger(__name__)

# Images committed so far, images in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """How the run stands after an import.

    Attributes:
        header: Of the run.
        totals: Over all of its shards.
        left_out: How many things of the files were not taken over, by what they are.
        num_shards_before: Committed by earlier calls.
        num_without_pixels: Masks without a pixel that this call left out.
    """

    header: RunHeader
    totals: RunTotals
    left_out: Mapping[str, int]
    num_shards_before: int
    num_without_pixels: int


def import_annotation(
    request: ImportRequest, location: RunLocation, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> ImportSummary:
    """Import a human's annotation into the run at `location`, or continue an import of the same.

    Args:
        request: What, and from where.
        location: Of a new run, or of one that the same request began.
        on_progress: Told after each commit.
        on_wait: Told who holds the run, before a wait.

    Raises:
        ConfigError: The user must mend something; or the run there is another one.
        TransientError: Storage failed; the same call continues.
    """
    source = open_images(request, location.root)
    annotation = read_annotation(request)
    location.probe()
    with RunLock.held(location, on_wait=on_wait) as lock:
        planned = plan_import(request, annotation, source, location)
        done = list_receipts(location)
        work = _Import(request, location, planned)
        num_images = sum(receipt.counts.images for receipt in cached_receipts(location)) if done else 0
        on_progress(num_images, planned.header.num_images)
        pending = [shard for shard in range(planned.header.num_shards) if shard not in done]
        with closing(work.commits(pending)) as receipts:
            for receipt in receipts:
                lock.check()
                num_images += receipt.counts.images
                on_progress(num_images, planned.header.num_images)
        _finish(location)
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    return ImportSummary(planned.header, totals.sum(), annotation.left_out.counts, len(done), work.num_without_pixels)


class _Import:
    """The shards of a planned import, several at work at a time."""

    def __init__(self, request: ImportRequest, location: RunLocation, planned: PlannedImport) -> None:
        self._request = request
        self._location = location
        self._planned = planned
        self.num_without_pixels = 0

    def commits(self, shards: list[int]) -> Generator[Receipt]:
        """Yield the receipt of each shard as it is committed, in any order."""
        num_workers = min(self._request.num_workers, len(shards))
        if not num_workers:
            return
        with _provers(self._request, num_workers) as provers, ThreadPoolExecutor(num_workers) as pool:
            futures = [pool.submit(self._commit, shard, provers) for shard in shards]
            try:
                for future in as_completed(futures):
                    receipt, num_without_pixels = future.result()
                    self.num_without_pixels += num_without_pixels
                    yield receipt
            finally:
                # On the way out: what has not begun is not begun.
                pool.shutdown(wait=True, cancel_futures=True)

    def _commit(self, number: int, provers: queue.SimpleQueue[Prover]) -> tuple[Receipt, int]:
        header, config = self._planned.header, self._request.config
        entries = read_shard_plan(self._location, header, number)
        prover = provers.get()
        try:
            shard = read_shard(header.source, config, entries, prover=prover)
        finally:
            provers.put(prover)
        shard, num_without_pixels = self._annotate(shard)
        outcome = commit_shard(
            self._location,
            shard,
            planned_ids=[entry.image_id for entry in entries],
            embed_images=config.shards.embed_images,
            provenance=Provenance(mixed=self._planned.mixed),
        )
        return outcome.receipt, num_without_pixels

    def _annotate(self, shard: Shard) -> tuple[Shard, int]:
        """Return the shard with what humans said of it, and how many masks had no pixel."""
        started = time.perf_counter()
        request, images, num_without_pixels = self._request, [], 0
        for image in shard.images:
            human = self._planned.humans[image.image_id]
            done = annotate_image(image, human, orientation=request.orientation, limits=request.config.images)
            if done.failure is None:
                num_without_pixels += len(human.masks) - len(done.masks)
            images.append(done)
        return (
            shard.with_images(tuple(images)).with_seconds(STAGE_IMPORT, time.perf_counter() - started),
            num_without_pixels,
        )


@contextmanager
def _provers(request: ImportRequest, count: int) -> Iterator[queue.SimpleQueue[Prover]]:
    """Give one prover a worker; each has a child process of its own, and serves one thread at a time."""
    provers: queue.SimpleQueue[Prover] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            provers.put(stack.enter_context(Prover(request.config.images)))
        yield provers


def _finish(location: RunLocation) -> None:
    """Leave a finished run as the pipeline leaves one: garbage first, so that a glob over a table is exact."""
    if not is_manifest_complete(location, list_receipts(location)):
        run_gc(location)
        write_manifest(location)
    if write_datacard(location).is_beside:
        logger.warning("%s was edited by hand and stays as it is; the new one is %s", CARD_NAME, BESIDE_NAME)
