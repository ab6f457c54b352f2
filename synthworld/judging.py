"""Counts what is right in one annotated scene; every figure is a ratio of two sums over scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from schemas.shard import ExpressionRecord, ShardImage
from synthworld.attributes import is_held_out
from synthworld.matching import iou_table, match_masks
from synthworld.oracle import refers_to
from synthworld.scenes import Scene
from synthworld.shards import SceneImage
from workers.masks import rle

GOOD_IOU = 0.75
_SAMPLING_DECODERS = frozenset(("top_k", "top_p"))


@dataclass
class Counts:
    """Numerator and denominator by figure name, of one scene or of many."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, numerator: float, denominator: float) -> None:
        """Adds to a figure."""
        before = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before[0] + numerator, before[1] + denominator)

    def merge(self, other: Mapping[str, tuple[float, float]]) -> None:
        """Adds all figures of another count."""
        for name, (numerator, denominator) in other.items():
            self.add(name, numerator, denominator)


@dataclass(frozen=True)
class MatchedScene:
    """An annotated scene whose masks are known to be objects or not: mask id → object number."""

    scene: Scene
    image: ShardImage
    object_of_mask: dict[str, int]

    def is_right(self, expression: ExpressionRecord) -> bool:
        """Returns whether an expression refers to its target alone; a mask that is no object's has no right one."""
        numbers = [self.object_of_mask.get(target) for target in expression.target_mask_ids]
        return len(numbers) == 1 and numbers[0] is not None and refers_to(expression.text, self.scene, numbers[0])


def match_scene(truth: SceneImage, image: ShardImage) -> tuple[MatchedScene, np.ndarray]:
    """Returns the scene with its masks matched one-to-one, and the IoU that each object reached, (N,) float64."""
    masks = rle.decode([mask.rle_counts for mask in image.masks], truth.masks.shape[1:])
    ious = iou_table(masks, truth.masks)
    pairs = match_masks(ious)
    reached = np.zeros(len(truth.masks))
    for mask, number in pairs.items():
        reached[number] = ious[mask, number]
    return MatchedScene(truth.scene, image, {image.masks[m].mask_id: n for m, n in pairs.items()}), reached


def count_masks(truth: SceneImage, matched: MatchedScene, reached: np.ndarray) -> Counts:
    """Counts recall at IoU 0.75 over visible objects, and proposals an object."""
    counts = Counts()
    visible = truth.masks.any(axis=(1, 2))
    counts.add("mask_recall_75", float((reached >= GOOD_IOU).sum()), float(visible.sum()))
    counts.add("mask_recall_50", float((reached > 0).sum()), float(visible.sum()))
    counts.add("proposals_per_object", len(matched.image.masks), float(visible.sum()))
    return counts


def count_decoders(matched: MatchedScene, *, sampling: str) -> Counts:
    """Counts each draw of the beam and of the sampling decoders, the latter under the name `sampling`."""
    counts = Counts()
    for expression in matched.image.expressions:
        is_right = matched.is_right(expression)
        drawn = sum(sample.decoder in _SAMPLING_DECODERS for sample in expression.samples)
        beams = len(expression.samples) - drawn
        counts.add(f"accuracy_{sampling}", drawn * is_right, drawn)
        counts.add("accuracy_beam", beams * is_right, beams)
    return counts


def count_kept(matched: MatchedScene, *, tau: float | None = None) -> Counts:
    """Counts the distinct kept expressions; with `tau`, those that this threshold would keep instead."""
    counts = Counts()
    covered: set[int] = set()
    for expression in matched.image.expressions:
        if not (expression.kept if tau is None else _passes(expression, tau)):
            continue
        is_right = matched.is_right(expression)
        counts.add("accuracy_filtered", is_right, 1)
        number = matched.object_of_mask.get(expression.target_mask_ids[0])
        if number is not None:
            truth = matched.scene.objects[number].attributes
            group = "held_out" if is_held_out(truth.category, truth.colour) else "seen"
            counts.add(f"accuracy_filtered_{group}", is_right, 1)
            covered |= {number} if is_right else set()
    kept = counts.sums.get("accuracy_filtered", (0.0, 0.0))[1]
    counts.add("yield_filtered", kept, len(matched.image.masks))
    counts.add("coverage_filtered", len(covered), len(matched.scene.objects))
    return counts


def _passes(expression: ExpressionRecord, tau: float) -> bool:
    """The filter's rule at another threshold; a lone mask keeps all."""
    return expression.distinctiveness is None or expression.distinctiveness > tau
