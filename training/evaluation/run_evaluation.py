"""Evaluates the tables of a run against a truth, shard by shard, without models, pixels or Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Receipt
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import list_receipts, spread_evenly
from pseudoris.store.threads import map_in_threads
from pseudoris.training.evaluation.bootstrap import ImageBootstrap, Sums
from pseudoris.training.evaluation.counts import DECODERS, CandidateTable, count_image
from pseudoris.training.evaluation.figures import Evaluation, ImageCounts, summarise
from pseudoris.training.evaluation.run_images import RunImage, iter_images, read_shard
from pseudoris.training.evaluation.truth import ImageTruth, Truth

_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source")
_THREADS: Final = 4

# Shards read so far, shards to read.
OnProgress = Callable[[int, int], None]


def evaluate_run(
    location: RunLocation,
    truth: Truth,
    *,
    sample: int | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Return the figures of the committed shards; memory is bounded by a few shards and the sums of each image.

    Args:
        location: Where the run lives, finished or not.
        truth: What its images show.
        sample: How many shards, spread evenly; None for all.
        seed: Seed of the resampling of images.
        on_progress: Called after each shard.

    Raises:
        ConfigError: No run was started there, nothing is committed, run and truth share no image, one of them shows
            another picture in the other, or a part is missing or damaged.
        TransientError: Storage failed.
    """
    header = require_header(location)
    committed = list(list_receipts(location))
    if not committed:
        raise ConfigError(
            f"{location.root} has no committed shard yet. Wait for the first one (see `pseudoris status`)."
        )
    chosen = spread_evenly(committed, sample)
    tally = _Tally(truth)

    def sums() -> Iterator[Sums]:
        receipts = (receipt for receipt in cached_receipts(location) if receipt.shard in chosen)
        tables = map_in_threads(lambda receipt: _read(location, receipt), receipts, _THREADS)
        for number, images in enumerate(tables, start=1):
            for image in images:
                known = tally.register(image)
                if known is not None:
                    yield count_image(known, tally.judgeable(image.candidates or _nothing(known.size))).sums
            on_progress(number, len(chosen))

    bootstrap = ImageBootstrap(sums(), seed=seed)
    if not tally.judged:
        raise ConfigError(_no_common(location.root, truth, tally))
    counts = tally.counts(in_plan=header.num_images, shards_read=len(chosen), shards=len(committed))
    return summarise(
        bootstrap,
        counts,
        run=location.root,
        truth=truth.title,
        notes=(*truth.notes, *tally.notes()),
        groups=tuple(truth.groups),
        judges_texts=truth.judges_texts,
    )


@dataclass(slots=True)
class _Tally:
    """Which images of the run the truth knows, counted as they come."""

    truth: Truth
    judged: int = 0
    judged_quarantined: int = 0
    quarantined: int = 0
    unknown: int = 0
    unknown_key: str | None = None
    num_not_judged: int = 0

    def judgeable(self, candidates: CandidateTable) -> CandidateTable:
        """Return what the truth can judge of an image's expressions, and count the others."""
        found = candidates.without(self.truth.unjudged_kinds)
        self.num_not_judged += int(candidates.is_kept.sum() - found.is_kept.sum())
        return found

    def notes(self) -> list[str]:
        """Return what a reader must know of what was left out."""
        if not self.num_not_judged:
            return []
        kinds = " or ".join(self.truth.unjudged_kinds)
        return [
            f"{self.num_not_judged:,} kept expressions of kind {kinds} are left out of all figures: this truth cannot "
            "judge them."
        ]

    def register(self, image: RunImage) -> ImageTruth | None:
        """Return the image's truth; None where it is not to be judged.

        Raises:
            ConfigError: The truth is of another picture.
        """
        self.quarantined += image.candidates is None
        known = image.known_to(self.truth)
        if known is None:
            if image.candidates is not None:
                self.unknown += 1
                self.unknown_key = self.unknown_key or image.key
            return None
        self.judged += 1
        self.judged_quarantined += image.candidates is None
        return known

    def counts(self, *, in_plan: int, shards_read: int, shards: int) -> ImageCounts:
        """Return them."""
        return ImageCounts(
            judged=self.judged,
            judged_quarantined=self.judged_quarantined,
            unknown=self.unknown,
            unknown_key=self.unknown_key,
            quarantined=self.quarantined,
            in_truth=self.truth.num_images,
            in_plan=in_plan,
            shards_read=shards_read,
            shards=shards,
        )


def _read(location: RunLocation, receipt: Receipt) -> list[RunImage]:
    return list(iter_images(read_shard(location, receipt, *_COLUMNS)))


def _nothing(size: tuple[int, int]) -> CandidateTable:
    """Return what a quarantined image has: no mask and no expression."""
    draws = np.zeros((0, len(DECODERS) + 1), dtype=np.int64)
    return CandidateTable(size, [], [], [], [], draws, np.zeros(0, dtype=np.bool_))


def _no_common(root: str, truth: Truth, tally: _Tally) -> str:
    of_run = f"an image of the run is {tally.unknown_key!r}" if tally.unknown_key else "the run quarantined all it read"
    of_truth = f"one of the truth is {truth.example_key!r}" if truth.example_key else "the truth has none"
    return (
        f"{root} and the truth ({truth.title}) have no image in common: {of_run}, {of_truth}. Image keys are "
        "relative to SOURCE and must be equal. Annotate and import the same folder of images, or name another "
        "--truth."
    )
