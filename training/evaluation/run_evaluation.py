"""Evaluates the tables of a run against a truth, shard by shard, without models, pixels or Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Receipt
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import list_receipts, spread_evenly
from pseudoris.store.threads import map_in_threads
from pseudoris.training.evaluation.bootstrap import UNDEFINED, Estimate, ImageBootstrap, Sums, without_nan
from pseudoris.training.evaluation.run_images import RunImage, iter_images, read_shard
from pseudoris.training.evaluation.truth import (
    ALL,
    DECODERS,
    DIFFICULTIES,
    KEPT,
    KINDS,
    SAMPLING,
    SETS,
    CandidateTable,
    ImageTruth,
    Truth,
    count_image,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its title, its meaning, and the number of decimal places to show."""

    title: str
    meaning: str
    digits: int = 3


FIGURES: Final[Mapping[str, Figure]] = {
    "accuracy": Figure("referring accuracy", "refer to their mask's object and to nothing else"),
    "accuracy_on_objects": Figure("… on objects", "the same, but only for masks that are an object of the truth"),
    "yield": Figure("yield per mask", "draws per mask; for kept: expressions per mask", 2),
    "distinct": Figure("distinct per mask", "distinct expressions per mask", 2),
    "attribute_precision": Figure("attribute precision", "share of the stated attributes that are true of the object"),
    "attribute_recall": Figure("attribute recall", "share of an object's true attributes that are stated"),
    "words": Figure("words", "mean number of words", 2),
    "coverage": Figure("coverage", "share of the truth's objects with at least one right expression"),
}


MASK_FIGURES: Final[Mapping[str, Figure]] = {
    "recall_50": Figure("recall at IoU 0.5", "share of visible objects with a mask of IoU 0.5 or more"),
    "recall_75": Figure("recall at IoU 0.75", "share of visible objects with a mask of IoU 0.75 or more"),
    "mean_iou": Figure("mean IoU", "mean over visible objects, each with its matched mask; 0 without one"),
    "proposals": Figure("masks per object", "masks divided by visible objects"),
    "objects": Figure("masks that are objects", "share of masks that are matched to an object"),
}
SET_TITLES: Final[Mapping[str, str]] = {
    "beam": "beam",
    "top_k": "top-k",
    "top_p": "top-p",
    SAMPLING: "sampling",
    ALL: "all",
    KEPT: "kept",
}
SET_MEANINGS: Final[Mapping[str, str]] = {
    "beam": "every draw of beam search",
    "top_k": "every draw under a top-k rule",
    "top_p": "every draw under a top-p rule",
    SAMPLING: "every draw of top-k and top-p together",
    ALL: "every draw of every decoder",
    KEPT: "each distinct expression that the filter kept, once",
}
KIND_TITLES: Final[Mapping[str, str]] = {
    "attribute": "attributes only",
    "position": "a position in a row or in the image",
    "relation": "a relation to another object",
    "group": "several objects",
    "none": "no object",
}
GROUP_TITLES: Final[Mapping[str, str]] = {"seen": "seen in training", "held_out": "held out of training"}
# What no truth without sentences knows.
_OF_VERDICTS: Final = frozenset(FIGURES) - {"yield", "distinct", "words"}
# Each pair is (minuend, subtrahend).
STEPS: Final = ((KEPT, ALL), (SAMPLING, "beam"))
_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source")
_THREADS: Final = 4
# Shards read so far, shards to read.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """Referring accuracy of a part of the kept expressions, and how many these are."""

    accuracy: Estimate
    expressions: int


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Which images the figures are of.

    Attributes:
        judged: Images that run and truth share, those that the run quarantined included: their objects are missed.
        judged_quarantined: How many of these it quarantined.
        unknown: Images of the run that are not in the truth, without quarantined ones; no figure counts them.
        unknown_key: The key of the first of them.
        quarantined: All that the run quarantined in the shards that were read.
        in_truth: Images that are in the truth.
        in_plan: Images that the run has planned.
        shards_read: Shards whose tables were read.
        shards: Shards that are committed.
    """

    judged: int
    judged_quarantined: int
    unknown: int
    unknown_key: str | None
    quarantined: int
    in_truth: int
    in_plan: int
    shards_read: int
    shards: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run compared with a truth.

    Attributes:
        run: Folder or url of the run.
        truth: `Truth.title`.
        notes: Notes for a reader.
        images: Which images count.
        objects: Visible objects of the truth in them.
        masks: Masks in them.
        draws: Candidates drawn in them; a human's row counts as one.
        kept: Expressions kept in them.
        sets: By set of expressions (`SETS`), then by figure (`FIGURES`).
        mask_quality: By figure (`MASK_FIGURES`).
        difficulty: Kept expressions by how many other objects share the target's category.
        groups: Kept expressions by group of the target; empty where the truth has no groups.
        kinds: Kept expressions by kind; empty if there is only one kind.
        differences: By pair of `STEPS`, `kept − all`, then by figure.
        resamples: Resamplings of the images behind each interval.
        seed: Seed of the resampling.
    """

    run: str
    truth: str
    notes: tuple[str, ...]
    images: ImageCounts
    objects: int
    masks: int
    draws: int
    kept: int
    sets: Mapping[str, Mapping[str, Estimate]]
    mask_quality: Mapping[str, Estimate]
    difficulty: Mapping[str, Part]
    groups: Mapping[str, Part]
    kinds: Mapping[str, Part]
    differences: Mapping[str, Mapping[str, Estimate]]
    resamples: int
    seed: int


def summarise(
    bootstrap: ImageBootstrap,
    images: ImageCounts,
    *,
    run: str,
    truth: str,
    notes: Sequence[str] = (),
    groups: Sequence[str] = (),
    judges_texts: bool = True,
) -> Evaluation:
    """Return the figures of images counted by `count_image`, at least one.

    If the truth judges no text, figures that need a verdict are undefined.
    """
    figures = frozenset(FIGURES) if judges_texts else frozenset(FIGURES) - _OF_VERDICTS

    def ratio(name: str, figure: str) -> Estimate:
        return bootstrap.ratio(f"{name}.{figure}") if figure in figures else UNDEFINED

    def difference(more: str, less: str, figure: str) -> Estimate:
        return bootstrap.difference(f"{more}.{figure}", f"{less}.{figure}") if figure in figures else UNDEFINED

    def parts(kind: str, names: Sequence[str]) -> dict[str, Part]:
        found = _parts(bootstrap, kind, names)
        return found if judges_texts else {name: replace(part, accuracy=UNDEFINED) for name, part in found.items()}

    kinds = parts("kind", KINDS)
    return Evaluation(
        run=run,
        truth=truth,
        notes=tuple(notes),
        images=images,
        objects=_whole(bootstrap, "masks.recall_50", 1),
        masks=_whole(bootstrap, "masks.proposals", 0),
        draws=_whole(bootstrap, f"{ALL}.accuracy", 1),
        kept=_whole(bootstrap, f"{KEPT}.accuracy", 1),
        sets={name: {figure: ratio(name, figure) for figure in FIGURES} for name in SETS},
        mask_quality={figure: bootstrap.ratio(f"masks.{figure}") for figure in MASK_FIGURES},
        difficulty=parts("difficulty", DIFFICULTIES),
        groups=parts("group", groups),
        # One kind is what the figures above say.
        kinds=kinds if sum(part.expressions > 0 for part in kinds.values()) > 1 else {},
        differences={
            step_name(more, less): {figure: difference(more, less, figure) for figure in FIGURES}
            for more, less in STEPS
        },
        resamples=bootstrap.num_resamples,
        seed=bootstrap.seed,
    )


def step_name(more: str, less: str) -> str:
    """Return how a paired difference is called, `kept − all`."""
    return f"{SET_TITLES[more]} − {SET_TITLES[less]}"


def as_tree(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values; null if nothing was counted."""
    tree: dict[str, Any] = without_nan(asdict(found))
    return tree


def _parts(bootstrap: ImageBootstrap, kind: str, names: Sequence[str]) -> dict[str, Part]:
    known = frozenset(bootstrap.names)
    return {
        name: Part(
            bootstrap.ratio(f"{kind}.{name}") if f"{kind}.{name}" in known else UNDEFINED,
            _whole(bootstrap, f"{kind}.{name}", 1),
        )
        for name in names
    }


def _whole(bootstrap: ImageBootstrap, name: str, place: int) -> int:
    return round(bootstrap.total(name)[place])


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
