"""Counts of annotated scenes under the names that the model card has; the counting is `training.evaluation`'s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from schemas.shard import ExpressionRecord, ShardImage
from synthworld.shards import SceneImage
from synthworld.truth import SceneImageTruth
from training.evaluation.counting import DECODERS, Candidates, Counts, count_image

NUCLEUS: Final = "accuracy_nucleus"
_FIGURES: Final = {
    "masks.recall_75": "mask_recall_75",
    "masks.recall_50": "mask_recall_50",
    "masks.proposals": "proposals_per_object",
    "beam.accuracy": "accuracy_beam",
    "sampling.accuracy": "accuracy_distinctive",
    "kept.accuracy": "accuracy_filtered",
    "kept.yield": "yield_filtered",
    "kept.coverage": "coverage_filtered",
    "group.seen": "accuracy_filtered_seen",
    "group.held_out": "accuracy_filtered_held_out",
}

# Says whether an expression is kept.
Rule = Callable[[ExpressionRecord], bool]


def count_scene(truth: SceneImage, image: ShardImage) -> Counts:
    """Return the figures of a scene annotated end to end."""
    found = _count(truth, image, lambda expression: expression.kept)
    return Counts({name: found[figure] for figure, name in _FIGURES.items() if figure in found})


def count_nucleus(truth: SceneImage, image: ShardImage) -> Counts:
    """Return the accuracy of the sampling decoders alone, as that of the nucleus baseline."""
    return Counts({NUCLEUS: _count(truth, image, lambda expression: expression.kept)["sampling.accuracy"]})


def count_at(truth: SceneImage, image: ShardImage, tau: float) -> Counts:
    """Return accuracy and yield of what another threshold would keep; a lone mask keeps all."""
    found = _count(truth, image, lambda each: each.distinctiveness is None or each.distinctiveness > tau)
    names = {"kept.accuracy": "accuracy_filtered", "kept.yield": "yield_filtered"}
    return Counts({f"{name}@{tau:g}": found[figure] for figure, name in names.items()})


def candidates_of(image: ShardImage, keeps: Rule) -> Candidates:
    """Return an annotated image of known size in columns, with what a rule keeps."""
    if image.height is None or image.width is None:
        raise ValueError(f"image {image.key} has no size: it is not proven")
    places = {name: place for place, name in enumerate(DECODERS)}
    draws = np.zeros((len(image.expressions), len(DECODERS) + 1), dtype=np.int64)
    for row, expression in enumerate(image.expressions):
        for sample in expression.samples:
            draws[row, places.get(sample.decoder, len(DECODERS))] += 1
    return Candidates(
        size=(image.height, image.width),
        mask_ids=[mask.mask_id for mask in image.masks],
        mask_counts=[mask.rle_counts for mask in image.masks],
        texts=[each.text for each in image.expressions],
        targets=[each.target_mask_ids for each in image.expressions],
        draws=draws,
        is_kept=np.array([keeps(each) for each in image.expressions], dtype=np.bool_),
        kinds=[each.kind for each in image.expressions],
        sources=[each.source for each in image.expressions],
    )


def _count(truth: SceneImage, image: ShardImage, keeps: Rule) -> dict[str, tuple[float, float]]:
    return count_image(SceneImageTruth(truth.scene, truth.masks), candidates_of(image, keeps)).sums
