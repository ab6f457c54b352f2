"""An object that an inner edge of a tile cuts is a rival, and the target of no expression."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord, MasksLeft, Shard, ShardImage, emptied_by
from pseudoris.synthworld.scene_truth import referents
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.cut_masks import with_cuts, without_cut_targets
from pseudoris.workers.stages import STAGES
from tests.builders.scene_runs import plain_object

IMAGE = "0" * 16


def masks(*boxes):
    return tuple(MaskRecord(f"{IMAGE}-{at:04d}", at, (64, 64), "", box, 9) for at, box in enumerate(boxes))


def tile(**fields):
    place = {"picture": "a.png", "tile_xyxy_px": (0, 0, 64, 64), "picture_size": (64, 128)}
    return ShardImage(0, IMAGE, "a", **{"masks": masks((5, 5, 20, 20), (40, 5, 63, 20)), **place, **fields})


def marked(image):
    return with_cuts(Shard(0, 0, (image,))).images[0]


def test_cut_masks_of_a_tile_are_marked_and_counted():
    found = marked(tile(masks_left=MasksLeft(proposed=9, doubles=2)))
    assert [mask.is_cut for mask in found.masks] == [False, True]
    assert found.masks_left == MasksLeft(proposed=9, doubles=2, cut_edges=1)
    assert emptied_by(found.masks_left) is None
    assert emptied_by(marked(tile(masks=masks((50, 5, 64, 20)))).masks_left) == "cut_edges"


def test_masks_of_other_images_have_no_mark_and_no_count():
    found = marked(tile(picture=None, tile_xyxy_px=(), picture_size=()))
    assert [mask.is_cut for mask in found.masks] == [None, None]
    assert found.masks_left is None


def test_a_picture_that_fits_counts_its_masks_beside_tiles():
    # Else the receipt of both would have fewer masks after this rule, as if edges had cut them.
    whole = tile(picture=None, tile_xyxy_px=(), picture_size=(), masks_left=MasksLeft(proposed=9))
    found = with_cuts(Shard(0, 0, (tile(), whole))).images[1]
    assert [mask.is_cut for mask in found.masks] == [None, None]
    assert found.masks_left == MasksLeft(proposed=9, cut_edges=2)


def test_no_expression_refers_to_a_cut_mask():
    image = marked(tile())
    ids = [mask.mask_id for mask in image.masks]
    targets = [(ids[0],), (ids[1],), tuple(ids), ()]
    said = tuple(ExpressionRecord(each, f"text {at}", ()) for at, each in enumerate(targets))
    (found,) = without_cut_targets(Shard(0, 0, (replace(image, expressions=said),))).images
    assert [each.text for each in found.expressions] == ["text 0", "text 3"]


def test_a_candidate_whose_rival_is_cut_goes_unless_a_confidence_decides():
    image = marked(tile())
    first, second = (mask.mask_id for mask in image.masks)
    said = tuple(
        ExpressionRecord((first,), text, (), rival_mask_id=second, confidence=confidence)
        for text, confidence in (("by tau", None), ("by confidence", 0.9))
    )
    (found,) = without_cut_targets(Shard(0, 0, (replace(image, expressions=said),))).images
    assert [each.text for each in found.expressions] == ["by confidence"]


@cache
def stages(preset):
    return [kind.build(load_config(preset)) for kind in STAGES]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny-composed"])
@pytest.mark.parametrize(("category", "colour"), [("star", "red"), ("circle", "blue"), ("square", "green")])
def test_no_kept_text_of_a_whole_object_fits_an_equal_one_that_is_cut(preset, category, colour):
    scene = replace(make_scene(Split.DEMO, 0), objects=two_equal(category, colour))
    shard = scene_shard([scene_image(scene)])
    side = shard.images[0].height
    place = {"picture": "a.png", "tile_xyxy_px": (0, 0, side, side), "picture_size": (side, 2 * side)}
    shard = shard.with_images((replace(shard.images[0], **place),))
    for stage in stages(preset):
        shard = stage(shard)
    (image,) = shard.images
    whole = [mask for mask in image.masks if not mask.is_cut]
    assert len(image.masks) > len(whole) > 0
    cut = {mask.mask_id for mask in image.masks if mask.is_cut}
    assert cut.isdisjoint(target for each in image.expressions for target in each.target_mask_ids)
    for each in image.expressions:
        if each.kept and each.target_mask_ids:
            assert referents(each.text, scene) == {0}, each.text


def two_equal(category, colour):
    first = plain_object(category, colour, 60.0)
    return (first, replace(first, centre_xy_px=(176.0, 96.0)))
