"""What an arm counts, by hand; the stages are those of a run."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.conformance.arm_counts import (
    GREY_RGB,
    ArmCounter,
    chances,
    changed_crops,
    with_short_boxes,
    write_instances,
)
from experiments.conformance.arms import ARMS_BY_NAME
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.crops import crops
from pseudoris.workers.masks.instance_files import read_instance_table
from recipes.scene_shards import scene_image, scene_shard


@pytest.fixture(scope="module")
def scene():
    return scene_image(make_scene(Split.TEST, 0))


@pytest.fixture(scope="module")
def image(scene):
    return scene_shard([scene], with_true_masks=True).images[0]


def candidate(mask: str, text: str, *, draws: int = 1, correctness: float = 0.5, kept: bool = False):
    sample = CaptionSample("masked", "top_k", 5, None, -1.0)
    return ExpressionRecord((mask,), text, samples=(sample,) * draws, correctness=correctness, kept=kept)


def test_the_authors_draw_by_repeats_and_any_caption_where_none_is_kept(image) -> None:
    first, second = (mask.mask_id for mask in image.masks[:2])
    expressions = (
        candidate(first, "a", draws=3, kept=True),
        candidate(first, "b", kept=True),
        candidate(first, "c"),
        candidate(second, "d", draws=4),
        candidate(second, "e"),
    )
    scored = replace(image, expressions=expressions)
    assert chances(scored, first, "repeats").tolist() == [0.75, 0.25, 0, 0, 0]
    assert chances(scored, second, "repeats").tolist() == [0, 0, 0, 0.8, 0.2]
    assert chances(scored, first, "distinct").tolist() == [0.5, 0.5, 0, 0, 0]
    assert chances(scored, second, "distinct").sum() == 0
    assert chances(scored, first, "kept_repeats").tolist() == [0.75, 0.25, 0, 0, 0]
    assert chances(scored, second, "kept_repeats").sum() == 0


def test_of_a_lone_mask_the_authors_draw_the_better_half(image) -> None:
    mask = image.masks[0].mask_id
    expressions = (candidate(mask, "a", draws=2, correctness=0.9), candidate(mask, "b", draws=2, correctness=0.1))
    scored = replace(image, masks=image.masks[:1], expressions=expressions)
    assert chances(scored, mask, "repeats").tolist() == [1, 0]


def test_a_short_box_ends_one_pixel_before_and_keeps_a_pixel(image) -> None:
    shard = scene_shard([])
    thin = replace(image.masks[0], box_xyxy_px=(3, 4, 4, 9))
    shard = shard.with_images((replace(image, masks=(thin,)),))
    assert with_short_boxes(shard).images[0].masks[0].box_xyxy_px == (3, 4, 4, 8)


def test_grey_fill_lasts_as_long_as_the_arm() -> None:
    before = crops.FILL_RGB
    with changed_crops("grey"):
        assert crops.FILL_RGB == GREY_RGB
    assert before == crops.FILL_RGB


def test_the_instances_of_a_scene_are_its_visible_objects(scene, image, tmp_path) -> None:
    write_instances([scene], tmp_path / "instances.parquet")
    table = read_instance_table(str(tmp_path / "instances.parquet"), 0.5)
    found = table.instances(image.image_id, image.key, (192, 192))
    assert list(found.counts) == [mask.rle_counts for mask in image.masks]
    assert len(found.counts) == int(np.any(scene.masks, axis=(1, 2)).sum())


@pytest.mark.slow
def test_arms_of_one_annotation_count_the_same_masks() -> None:
    counter = ArmCounter()
    ((right, kept, masks),) = counter.count(ARMS_BY_NAME["plain"], range(1))
    ((chance, drawn, same),) = counter.count(ARMS_BY_NAME["distinct_draw"], range(1))
    assert 0 < right <= kept
    assert 0 < chance <= drawn <= masks == same
