"""Evaluates a run's tables against a truth, by shard, without models, pixels or Ray. For `cli`, users, experiments.

A quarantined image has its objects missed. A figure that cannot be judged is undefined, not 0. `Evaluation` is public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.untrusted import without_nan
from pseudoris.schemas.estimate import RESAMPLES, UNDEFINED, Estimate, ImageBootstrap, Sums
from pseudoris.store.runs.receipts import spread_evenly
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.run_images import CANDIDATE_COLUMNS, CommittedImage, committed_images
from pseudoris.training.evaluation.truth import ALL, DIFFICULTIES, KEPT, KINDS, SAMPLING, SETS, Truth, count_image


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
SET_MEANINGS: Final[Mapping[str, str]] = {
    "beam": "every draw of beam search",
    "top_k": "every draw under a top-k rule",
    "top_p": "every draw under a top-p rule",
    SAMPLING: "every draw of top-k and top-p together",
    ALL: "every draw of every decoder",
    KEPT: "each distinct expression that the filter kept, once",
}
SET_TITLES: Final[Mapping[str, str]] = {name: name.replace("_", "-") for name in SET_MEANINGS}
KIND_TITLES: Final[Mapping[str, str]] = {
    "attribute": "attributes only",
    "position": "a position in a row or in the image",
    "relation": "a relation to another object",
    "group": "several objects",
    "none": "no object",
}
GROUP_TITLES: Final[Mapping[str, str]] = {"seen": "seen in training", "held_out": "held out of training"}
# These figures can be computed only if the truth has sentences.
_OF_VERDICTS: Final = frozenset(FIGURES) - {"yield", "distinct", "words"}
# The report shows the difference of the two sets of each pair: the first minus the second.
STEPS: Final = ((KEPT, ALL), (SAMPLING, "beam"))
_THREADS: Final = 4
_FITTED: Final = "Not proven clean: the images that its confidence was fitted on (filtering.fitted) are not recorded."


@dataclass(frozen=True, slots=True)
class Part:
    """Referring accuracy of a part of the kept expressions, and how many these are."""

    accuracy: Estimate
    expressions: int


@dataclass(slots=True)
class ImageCounts:
    """Which images the figures are of, counted as they come from the `shards_read` of the committed `shards`.

    `judged` are those that run and truth share, with those that the run quarantined: their objects are missed.
    `unknown` ones are not in the truth and in no figure, without quarantined ones; `unknown_key` is the first of them.
    """

    judged: int = 0
    judged_quarantined: int = 0
    unknown: int = 0
    unknown_key: str | None = None
    quarantined: int = 0
    in_truth: int = 0
    in_plan: int = 0
    shards_read: int = 0
    shards: int = 0

    def add(self, image: CommittedImage, *, is_known: bool) -> None:
        """Count an image that the truth knows, or not."""
        self.quarantined += image.is_quarantined
        if is_known:
            self.judged += 1
            self.judged_quarantined += image.is_quarantined
        elif not image.is_quarantined:
            self.unknown += 1
            self.unknown_key = self.unknown_key or image.key


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run compared with a truth.

    Attributes:
        objects: Visible objects of the truth in the judged images; `masks`, `draws` (a human's row counts as one) and
            `kept` expressions likewise.
        sets: By set of expressions (`SETS`), then by figure (`FIGURES`).
        mask_quality: By figure (`MASK_FIGURES`).
        difficulty: Kept expressions by how many other objects share the target's category.
        groups: Kept expressions by group of the target; empty where the truth has no groups.
        kinds: Kept expressions by kind; empty if there is only one kind.
        differences: By pair of `STEPS`, `kept − all`, then by figure.
        resamples: Resamplings of the images behind each interval, drawn by `seed`.
        circularity: What must be said before any figure: what the run has of the truth, or may have.
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
    circularity: tuple[str, ...] = ()


def summarise_evaluation(
    bootstrap: ImageBootstrap, images: ImageCounts, truth: Truth, *, run: str, notes: list[str], circular: list[str]
) -> Evaluation:
    """Return the figures of images counted by `count_image`, at least one; what lacks verdicts is undefined."""
    figures = frozenset(FIGURES) - (frozenset() if truth.judges_texts else _OF_VERDICTS)

    def whole(name: str, place: int) -> int:
        return round(bootstrap.total(name)[place])

    def accuracy(name: str) -> Estimate:
        return bootstrap.ratio(name) if truth.judges_texts and name in bootstrap.names else UNDEFINED

    def parts(kind: str, names: Sequence[str]) -> dict[str, Part]:
        return {each: Part(accuracy(f"{kind}.{each}"), whole(f"{kind}.{each}", 1)) for each in names}

    kinds = parts("kind", KINDS)
    return Evaluation(
        run=run,
        truth=truth.title,
        notes=(*truth.notes, *notes),
        images=images,
        objects=whole("masks.recall_50", 1),
        masks=whole("masks.proposals", 0),
        draws=whole(f"{ALL}.accuracy", 1),
        kept=whole(f"{KEPT}.accuracy", 1),
        sets={
            name: {each: bootstrap.ratio(f"{name}.{each}") if each in figures else UNDEFINED for each in FIGURES}
            for name in SETS
        },
        mask_quality={figure: bootstrap.ratio(f"masks.{figure}") for figure in MASK_FIGURES},
        difficulty=parts("difficulty", DIFFICULTIES),
        groups=parts("group", truth.groups),
        # A single kind is left out, because the figures of the whole run are those of this kind.
        kinds=kinds if sum(part.expressions > 0 for part in kinds.values()) > 1 else {},
        differences={
            f"{SET_TITLES[more]} − {SET_TITLES[less]}": {
                each: bootstrap.difference(f"{more}.{each}", f"{less}.{each}") if each in figures else UNDEFINED
                for each in FIGURES
            }
            for more, less in STEPS
        },
        resamples=RESAMPLES,
        seed=bootstrap.seed,
        circularity=tuple(circular),
    )


def as_tree(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values, its circularity first; null if nothing was counted."""
    tree: dict[str, Any] = without_nan({"circularity": [], **asdict(found)})
    return tree


def evaluate_run(
    location: RunLocation,
    truth: Truth,
    *,
    sample: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Return the figures of the committed shards; memory is bounded by a few shards and the sums of each image.

    The run need not be finished. `sample` is how many shards are read, spread evenly; `seed` that of the resampling.
    """
    run = OpenRun.at(location)
    if not run.receipts:
        raise ConfigError(f"{location.root} has no committed shard yet. Wait for the first (see `pseudoris status`).")
    chosen = spread_evenly(run.receipts.shards.tolist(), sample)
    counts = ImageCounts(
        in_truth=truth.num_images, in_plan=run.header.num_images, shards_read=len(chosen), shards=len(run.receipts)
    )
    num_not_judged = num_same = 0

    def sums() -> Iterator[Sums]:
        nonlocal num_not_judged, num_same
        shards = (each for each in run.shards() if each.receipt.shard in chosen)
        tables = map_in_threads(lambda each: list(committed_images(each, *CANDIDATE_COLUMNS)), shards, _THREADS)
        for number, images in enumerate(tables, start=1):
            for image in images:
                known = image.known_to(truth)
                counts.add(image, is_known=known is not None)
                if known is not None:
                    num_same += len(set(image.mask_counts) & set(known.masks))
                    candidates = image.candidates
                    judged = candidates.without(truth.unjudged_kinds)
                    num_not_judged += int(candidates.is_kept.sum() - judged.is_kept.sum())
                    yield count_image(known, judged)
            on_progress(number, len(chosen))

    bootstrap = ImageBootstrap(sums(), seed=seed)
    if not counts.judged:
        raise _nothing_shared(location.root, counts.unknown_key, truth)
    left_out = f"{num_not_judged:,} kept expressions of kind {' or '.join(truth.unjudged_kinds)} are left out"
    notes = [f"{left_out} of all figures: this truth cannot judge them."] if num_not_judged else []
    masks = f"{num_same:,} masks of the run are masks of the truth, pixel for pixel"
    # More than half of the masks must match, because a model may match a small object's mask exactly by chance.
    is_same = 2 * num_same > bootstrap.total("masks.proposals")[0]
    circular = [f"Circular: {masks}. The figures of masks say nothing."] if is_same else []
    is_fitted = any(each.config.filtering.fitted_values.confidence is not None for each in run.header.runs)
    circular += [_FITTED] if is_fitted else []
    return summarise_evaluation(bootstrap, counts, truth, run=location.root, notes=notes, circular=circular)


def _nothing_shared(run: str, key: str | None, truth: Truth) -> ConfigError:
    of_run = f"an image of the run is {key!r}" if key else "the run quarantined all it read"
    of_truth = f"one of the truth is {truth.example_key!r}" if truth.example_key else "the truth has none"
    return ConfigError(
        f"{run} and the truth ({truth.title}) have no image in common: {of_run}, {of_truth}. Image keys are relative "
        "to SOURCE and must be equal. Annotate and import the same folder of images, combine imports under the names "
        "of a combined run, or name another --truth."
    )
