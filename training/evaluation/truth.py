"""The protocol of a truth, and its verdicts on the masks and expressions of an image.

Called by `training` and experiments. Users fulfil `Truth` and `ImageTruth`: a new member breaks theirs. Every figure is
a ratio of two sums over images, named `<set>.<figure>` (`beam.accuracy`); besides sets there are `masks.…`,
`difficulty.…`, `group.…` and `kind.…`. An expression is right if it refers to its targets and to nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from pseudoris.primitives import rle
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.keep_rule import Flags, Ints
from pseudoris.schemas.shard import SOURCE_COMPOSER

GOOD_IOU: Final = 0.75
DECODERS: Final = ("beam", "top_k", "top_p")
SAMPLING: Final = "sampling"
ALL: Final = "all"
KEPT: Final = "kept"
# In `kept` each distinct expression of a mask counts once. In all other sets each draw counts.
SETS: Final = (*DECODERS, SAMPLING, ALL, KEPT)
# A difficulty is the number of other objects with the target's category. A mask that is not an object has the last one.
DIFFICULTIES: Final = ("0", "1", "2", "3+", "no object")
KINDS: Final = ("attribute", "position", "relation", "group", "none")
_HARDEST: Final = 3
_NO_OBJECT: Final = -1


class ImageTruth(Protocol):
    """The objects of one image, numbered from 0."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the upright image, in pixels."""

    @property
    def masks(self) -> Sequence[str]:
        """COCO compressed RLE of each object's visible pixels; empty if the object is hidden."""

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text refers to; None if that cannot be decided."""

    def attributes(self, text: str, number: int) -> tuple[int, int, int] | None:
        """Return how many attributes a text states, how many are true of an object, how many that has; or None."""

    def num_alike(self, number: int) -> int:
        """Return how many other objects share an object's category."""

    def group(self, number: int) -> str | None:
        """Return the group of `Truth.groups` that an object belongs to; None if there are no groups."""


class Truth(Protocol):
    """What is known of a set of images."""

    @property
    def title(self) -> str:
        """Its name and location, for a heading."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes for a reader of its figures, one sentence each."""

    @property
    def groups(self) -> Sequence[str]:
        """Names of the groups whose accuracy is reported separately; none by default."""

    @property
    def unjudged_kinds(self) -> Sequence[str]:
        """Kinds of expressions (`KINDS`) that it cannot judge: they are left out of every figure."""

    @property
    def judges_texts(self) -> bool:
        """Whether it can judge any text. If not, figures that need a verdict are undefined, and not 0."""

    @property
    def num_images(self) -> int:
        """The number of its images."""

    @property
    def example_key(self) -> str | None:
        """The key of one of them."""

    def of_image(self, image_id: str) -> ImageTruth | None:
        """Return the objects of an image, by its id; None if the truth does not have the image."""


@dataclass(frozen=True, slots=True, eq=False)
class CandidateTable:
    """An annotated image of `size` (H, W), upright: its M masks, COCO compressed RLE, and the R rows of its candidates.

    Attributes:
        targets: Ids of the masks that each text is to refer to.
        draws: (R, 4) int64, draws by `DECODERS`, then by any other decoder; none of a human's row.
        kinds: R of `KINDS`.
        sources: R, the `source` of each in the tables.
    """

    size: tuple[int, int]
    mask_ids: Sequence[str]
    mask_counts: Sequence[str]
    texts: Sequence[str]
    targets: Sequence[Sequence[str]]
    draws: Ints
    is_kept: Flags
    kinds: Sequence[str]
    sources: Sequence[str]

    def without(self, kinds: Sequence[str]) -> CandidateTable:
        """Return them without the rows of some kinds."""
        if not set(kinds) & set(self.kinds):
            return self
        rows = [row for row, kind in enumerate(self.kinds) if kind not in kinds]
        return replace(
            self,
            texts=[self.texts[row] for row in rows],
            targets=[self.targets[row] for row in rows],
            draws=self.draws[rows],
            is_kept=self.is_kept[rows],
            kinds=[self.kinds[row] for row in rows],
            sources=[self.sources[row] for row in rows],
        )

    def weights(self) -> Floats:
        """Return how often each row counts in each of `SETS`, (R, 6) float64."""
        beam, top_k, top_p, _ = self.draws.T
        # A human expression was not drawn but counts as one candidate. A composed expression does not count.
        is_composed = np.array([source == SOURCE_COMPOSER for source in self.sources], dtype=np.bool_)
        every = np.maximum(self.draws.sum(1), ~is_composed)
        return np.stack([beam, top_k, top_p, top_k + top_p, every, self.is_kept], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedMasks:
    """Which mask is which object, one-to-one, by mask id; masks without an object are left out.

    `reached` (N,) is the IoU of each object's mask, 0 without one; `is_visible` (N,) says which objects have a pixel.
    """

    object_of_mask: Mapping[str, int]
    reached: Floats
    is_visible: Flags


def match_image(truth: ImageTruth, candidates: CandidateTable) -> MatchedMasks:
    """Return which mask of an image is which object: IoU >= 0.5, the assignment with the largest total."""
    ious = rle.ious(candidates.mask_counts, truth.masks, truth.size)
    pairs = rle.match_masks(ious)
    reached = np.zeros(len(truth.masks))
    for mask, number in pairs.items():
        reached[number] = ious[mask, number]
    is_visible = rle.areas(truth.masks, truth.size) > 0
    return MatchedMasks({candidates.mask_ids[mask]: number for mask, number in pairs.items()}, reached, is_visible)


def count_image(truth: ImageTruth, candidates: CandidateTable) -> dict[str, tuple[float, float]]:
    """Return numerator and denominator of all figures of one image, by name.

    A mask without an object has no right expression. A text that cannot be judged is wrong.
    """
    matched = match_image(truth, candidates)
    num_masks, num_visible = float(len(candidates.mask_ids)), float(matched.is_visible.sum())
    verdicts = judge(truth, candidates, matched.object_of_mask)
    counts = {
        "masks.recall_50": (float((matched.reached > 0).sum()), num_visible),
        "masks.recall_75": (float((matched.reached >= GOOD_IOU).sum()), num_visible),
        "masks.mean_iou": (float(matched.reached.sum()), num_visible),
        "masks.proposals": (num_masks, num_visible),
        "masks.objects": (float(len(matched.object_of_mask)), num_masks),
        **_of_sets(verdicts, candidates.weights(), num_masks, num_visible),
    }
    is_counted = candidates.is_kept & verdicts.is_single
    for number in np.unique(verdicts.target[is_counted]).tolist():
        rows = is_counted & (verdicts.target == number)
        is_object = number != _NO_OBJECT
        alike = min(truth.num_alike(number), _HARDEST) if is_object else -1
        group = truth.group(number) if is_object else None
        for name in (f"difficulty.{DIFFICULTIES[alike]}", *([] if group is None else [f"group.{group}"])):
            right, total = counts.get(name, (0.0, 0.0))
            counts[name] = right + float(verdicts.is_right[rows].sum()), total + float(rows.sum())
    kinds = np.array(candidates.kinds, dtype=np.str_)
    for kind in np.unique(kinds[candidates.is_kept]).tolist():
        rows = candidates.is_kept & (kinds == kind)
        counts[f"kind.{kind}"] = float(verdicts.is_right[rows].sum()), float(rows.sum())
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """The truth's verdicts on R rows: whether each is right, has one target, and how many words, between blanks.

    Attributes:
        target: (R,) int64, the object that the one target is; -1 where it is none, or where there is not one target.
        attributes: (R, 3) int64, stated, stated and true, true of the target; 0 if the target is not an object.
    """

    is_right: Flags
    target: Ints
    is_single: Flags
    attributes: Ints
    words: Ints


def judge(truth: ImageTruth, candidates: CandidateTable, object_of_mask: Mapping[str, int]) -> Verdicts:
    """Return a truth's judgement of each row of an image; `object_of_mask` is from `match_image`."""
    num_rows = len(candidates.texts)
    is_right = np.zeros(num_rows, dtype=np.bool_)
    target = np.full(num_rows, _NO_OBJECT, dtype=np.int64)
    attributes = np.zeros((num_rows, 3), dtype=np.int64)
    # Each text is read once, because several masks may have the same text.
    referents: dict[str, frozenset[int] | None] = {}
    for row, (text, masks) in enumerate(zip(candidates.texts, candidates.targets, strict=True)):
        numbers = [object_of_mask.get(mask, _NO_OBJECT) for mask in masks]
        target[row] = numbers[0] if len(numbers) == 1 else _NO_OBJECT
        if _NO_OBJECT in numbers:
            continue
        if text not in referents:
            referents[text] = truth.referents(text)
        is_right[row] = referents[text] == frozenset(numbers)
        if len(numbers) == 1:
            attributes[row] = truth.attributes(text, numbers[0]) or 0
    words = np.array([len(text.split()) for text in candidates.texts], dtype=np.int64)
    is_single = np.array([len(masks) == 1 for masks in candidates.targets], dtype=np.bool_)
    return Verdicts(is_right, target, is_single, attributes, words)


def _of_sets(
    verdicts: Verdicts, weights: Floats, num_masks: float, num_visible: float
) -> dict[str, tuple[float, float]]:
    is_object = verdicts.target != _NO_OBJECT
    totals, right = weights.sum(0), verdicts.is_right @ weights
    right_on_objects, of_objects = (verdicts.is_right & is_object) @ weights, is_object @ weights
    stated, true, known = verdicts.attributes.T @ weights
    words, distinct = verdicts.words @ weights, (weights > 0).sum(0)
    counts: dict[str, tuple[float, float]] = {}
    for place, name in enumerate(SETS):
        is_covering = verdicts.is_right & is_object & (weights[:, place] > 0)
        covered = len(np.unique(verdicts.target[is_covering]))
        figures = {
            "accuracy": (right[place], totals[place]),
            "accuracy_on_objects": (right_on_objects[place], of_objects[place]),
            "yield": (totals[place], num_masks),
            "distinct": (distinct[place], num_masks),
            "attribute_precision": (true[place], stated[place]),
            "attribute_recall": (true[place], known[place]),
            "words": (words[place], totals[place]),
            "coverage": (covered, num_visible),
        }
        counts |= {f"{name}.{figure}": (float(part), float(whole)) for figure, (part, whole) in figures.items()}
    return counts
