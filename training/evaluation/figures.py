"""The figures of an evaluation: their names, and the whole as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pseudoris.training.evaluation.bootstrap import Estimate, ImageBootstrap
from pseudoris.training.evaluation.counts import ALL, DIFFICULTIES, KEPT, KINDS, SAMPLING, SETS


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its title, its meaning, and the number of decimal places to show."""

    title: str
    meaning: str
    digits: int = 3


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
UNDEFINED: Final = Estimate(math.nan, math.nan, math.nan)
# Each pair is (minuend, subtrahend).
STEPS: Final = ((KEPT, ALL), (SAMPLING, "beam"))


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
    """Return the figures of images counted by `counts.count_image`, at least one.

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


def value_text(estimate: Estimate, digits: int, *, sign: str = "") -> str:
    """Return a figure as text, a dash if nothing was counted."""
    return f"{estimate.value:{sign}.{digits}f}" if math.isfinite(estimate.value) else "–"


def interval_text(estimate: Estimate, digits: int, *, sign: str = "") -> str:
    """Return a figure's interval as text, empty if there is none."""
    if not math.isfinite(estimate.low):
        return ""
    return f"[{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def figure_text(estimate: Estimate, digits: int, *, sign: str = "") -> str:
    """Return a figure and its interval for a person."""
    texts = (value_text(estimate, digits, sign=sign), interval_text(estimate, digits, sign=sign))
    return " ".join(filter(None, texts))


def image_lines(found: Evaluation) -> dict[str, str]:
    """Return which images the figures are of, for a person, by name."""
    images = found.images
    lines = {
        "run": found.run,
        "truth": found.truth,
        "images": f"{images.judged:,} judged, of {images.in_plan:,} planned and {images.in_truth:,} in the truth",
        "objects": f"{found.objects:,}, and {found.masks:,} masks",
        "expressions": f"{found.draws:,} drawn, {found.kept:,} kept",
    }
    if images.shards_read < images.shards:
        lines["sample"] = f"{images.shards_read:,} of {images.shards:,} shards, spread evenly"
    if images.unknown:
        lines["unknown"] = f"{images.unknown:,} images of the run are not in the truth, such as {images.unknown_key}"
    if images.quarantined:
        missed = f"; the objects of {images.judged_quarantined:,} of them count as missed"
        lines["quarantined"] = f"{images.quarantined:,} images of the run{missed if images.judged_quarantined else ''}"
    return lines


def part_titles(found: Evaluation) -> dict[str, tuple[str, Part]]:
    """Return the parts of the kept expressions that hold any, by what a heading calls them."""
    alike = {"0": "no other object of its category", "1": "1 other", "2": "2 others", "3+": "3 or more others"}
    named = [(alike.get(name, "mask is not an object"), "difficulty", part) for name, part in found.difficulty.items()]
    named += [(GROUP_TITLES.get(name, name), "attribute pair", part) for name, part in found.groups.items()]
    named += [(KIND_TITLES.get(name, name), "kind", part) for name, part in found.kinds.items()]
    return {title: (kind, part) for title, kind, part in named if part.expressions}


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


def without_nan(value: Any) -> Any:
    """Return JSON values with null in place of what is not finite."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
