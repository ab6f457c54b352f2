"""Annotates scenes as an arm asks and counts what is kept; stages that arms share are computed once.

Called by this folder's __main__.py (measure). What decides masks or captions must be in the key of _once: the counts of
an arm must not depend on the arms before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evidence.experiments.conformance.arms import Arm, Draw, Fault, SceneCounts
from evidence.experiments.oracle import candidates_of
from evidence.recipes.scene_shards import SceneImage, encode_png, scene_image, scene_shard
from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.keep_rule import lone_draws
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.evaluation.truth import judge, match_image
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.crops import crops
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer

# CLIP's mean in the place of a normalised colour: 255 * (mean * std + mean).
GREY_RGB = (156, 147, 133)


class ArmCounter:
    """Counts scenes for arms. Masks and captions are kept, by all that decides them, for later arms that share them."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._shards: dict[tuple[str, ...], Shard] = {}

    def count(self, arm: Arm, positions: range) -> list[SceneCounts]:
        """Return the counts of the scenes at `positions` of the test split."""
        images = [scene_image(make_scene(Split.TEST, position)) for position in positions]
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "instances.parquet"
            if arm.has_instances:
                write_instances(images, table)
            scored = self._annotated(arm, arm.config(str(table)), images, positions)
        return [_counted(scene, image, arm.draw) for scene, image in zip(images, scored.images, strict=True)]

    def _annotated(self, arm: Arm, config: RunConfig, images: Sequence[SceneImage], positions: range) -> Shard:
        masks = config.masks.model_dump_json(exclude={"prior": {"path"}})
        key = (str(positions), config.compute.model_dump_json(exclude={"seed"}), masks, str(arm.fault == "bgr"))
        proposed = self._once(key, lambda: _proposed(config, images, arm.fault))
        with changed_crops(arm.fault):
            shard = with_short_boxes(proposed) if arm.fault == "short_boxes" else proposed
            own = (str(config.compute.seed), config.captions.model_dump_json(), str(arm.fault))
            captioned = self._once((*key, *own), lambda: _captioner(config.model_dump_json())(shard))
            return _scorer(config.model_dump_json())(captioned)

    def _once(self, key: tuple[str, ...], compute: Callable[[], Shard]) -> Shard:
        if key not in self._shards:
            self._shards[key] = compute()
        return self._shards[key]


def write_instances(images: Sequence[SceneImage], path: Path) -> None:
    """Write the truth's visible objects as a table of instances."""
    true = scene_shard(images, with_true_masks=True)
    rows = [
        {"image_id": image.image_id, "segmentation": {"size": list(mask.rle_size), "counts": mask.rle_counts}}
        for image in true.images
        for mask in image.masks
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _proposed(config: RunConfig, images: Sequence[SceneImage], fault: Fault | None) -> Shard:
    """Return the shard with SAM's masks; its images are as they were, whatever SAM saw."""
    shard = scene_shard(images)
    propose = SamProposer(config.masks, config.compute)
    if fault != "bgr":
        return propose(shard)
    exchanged = [np.ascontiguousarray(decode_proven(image.data)[..., ::-1]) for image in shard.images]
    swapped = [replace(image, data=encode_png(data)) for image, data in zip(shard.images, exchanged, strict=True)]
    seen = propose(shard.with_images(tuple(swapped)))
    return shard.with_images(tuple(replace(a, masks=b.masks) for a, b in zip(shard.images, seen.images, strict=True)))


def with_short_boxes(shard: Shard) -> Shard:
    """Return masks whose boxes end a pixel before their last one, and hold one at least."""

    def short(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = box
        return x0, y0, max(x1 - 1, x0 + 1), max(y1 - 1, y0 + 1)

    return shard.with_images(
        tuple(
            replace(image, masks=tuple(replace(mask, box_xyxy_px=short(mask.box_xyxy_px)) for mask in image.masks))
            for image in shard.images
        )
    )


@contextmanager
def changed_crops(fault: Fault | None) -> Iterator[None]:
    """Fill crops with grey while it lasts, where that is the fault."""
    before = crops.FILL_RGB
    # The settings have no colour, so that nobody sets a wrong one.
    crops.FILL_RGB = GREY_RGB if fault == "grey" else before  # type: ignore[misc]
    try:
        yield
    finally:
        crops.FILL_RGB = before  # type: ignore[misc]


def _counted(scene: SceneImage, scored: ShardImage, draw: Draw | None) -> SceneCounts:
    truth = SceneImageTruth(scene.scene, scene.masks)
    table = candidates_of(scored, lambda expression: expression.kept)
    is_right = judge(truth, table, match_image(truth, table).object_of_mask).is_right
    if draw is None:
        return float(is_right[table.is_kept].sum()), int(table.is_kept.sum()), len(scored.masks)
    drawn = [each for each in (chances(scored, mask.mask_id, draw) for mask in scored.masks) if each.sum()]
    return round(float(sum(is_right @ each for each in drawn)), 6), len(drawn), len(scored.masks)


def chances(image: ShardImage, mask: str, draw: Draw) -> NDArray[np.float64]:
    """Return how likely a trainer draws each candidate (R,) for a mask; zeros where it draws none."""
    is_own = np.array([mask in each.target_mask_ids for each in image.expressions], np.bool_)
    is_kept = np.array([each.kept for each in image.expressions], np.bool_) & is_own
    if draw == "distinct":
        return _shares(is_kept)
    counts = np.array([len(each.samples) for each in image.expressions], np.int64) * is_own
    if draw == "kept_repeats":
        return _shares(counts * is_kept)
    if len(image.masks) == 1:
        correctness = np.array([each.correctness for each in image.expressions], np.float64)
        drawn = lone_draws("better_half", masks=np.zeros(len(counts)), correctness=correctness, counts=counts)
    else:
        drawn = counts * is_kept if is_kept.any() else counts
    return _shares(drawn)


def _shares(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    numbers = np.asarray(weights, np.float64)
    shares: NDArray[np.float64] = numbers / max(numbers.sum(), 1)
    return shares


# The models of the present arm and of the one before.
@lru_cache(maxsize=2)
def _captioner(config_json: str) -> CocaCaptioner:
    config = RunConfig.model_validate_json(config_json)
    return CocaCaptioner(config.captions, config.compute)


@lru_cache(maxsize=2)
def _scorer(config_json: str) -> ClipScorer:
    config = RunConfig.model_validate_json(config_json)
    return ClipScorer(config.filtering, config.compute)
