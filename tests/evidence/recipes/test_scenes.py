"""Scenes as training data: their files, their truth, and what an annotator says of them."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from evidence.recipes.object_centric import object_centric_scene, read_true_masks, write_object_centric
from evidence.recipes.scene_shards import scene_image, scene_shard
from evidence.recipes.simulated_expressions import Expression, first_voice_expressions
from pseudoris.images.pixels import decode_upright
from pseudoris.primitives import rle
from pseudoris.schemas.config import ImagesConfig
from pseudoris.synthworld.attributes import CATEGORIES, Attributes, is_held_out
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import referents
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene


def test_a_scene_survives_its_encoding_and_true_masks_stand_in_its_order():
    scene = make_scene(Split.TEST, 1)
    image = scene_image(scene)
    assert (decode_upright(image.data, ImagesConfig()) == render(scene).image).all()
    row = scene_shard([image], with_true_masks=True).images[0]
    decoded = rle.decode([mask.rle_counts for mask in row.masks], (192, 192))
    assert (decoded == image.masks).all()
    assert [mask.area_px for mask in row.masks] == image.masks.sum(axis=(1, 2)).tolist()
    ys, xs = np.nonzero(image.masks[0])
    assert row.masks[0].box_xyxy_px == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_one_object_stands_whole_about_the_middle() -> None:
    for position in range(40):
        scene = object_centric_scene(position)
        (item,) = scene.objects
        ys, xs = np.nonzero(render(scene).masks[0])
        assert item.attributes.category == CATEGORIES[position % len(CATEGORIES)]
        assert not is_held_out(item.attributes.category, item.attributes.colour)
        assert abs(xs.mean() - 96) < 40
        assert abs(ys.mean() - 96) < 40
        assert min(xs.min(), ys.min()) > 0
        assert max(xs.max(), ys.max()) < 191


def test_files_lie_by_category_and_the_truth_fits_them(tmp_path) -> None:
    images = write_object_centric(tmp_path, num_images=21)
    truth = json.loads((tmp_path / "truth.json").read_text())
    masks = read_true_masks(tmp_path)

    assert {path.relative_to(images).as_posix() for path in images.rglob("*.png")} == set(truth) == set(masks)
    assert sum(name.startswith("circle/") for name in truth) == 2
    for name, mask in masks.items():
        assert np.asarray(Image.open(images / name)).shape[:2] == mask.shape
        assert truth[name]["object"]["attributes"]["category"] == name.partition("/")[0]
        assert 0.02 < mask.mean() < 0.4


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(Split.DEVELOPMENT, position) for position in range(40)]


def scene_expressions(scene: Scene) -> list[tuple[int, Expression]]:
    """Return every object's expressions, in the order of the objects."""
    return [(number, each) for number in range(len(scene.objects)) for each in first_voice_expressions(scene, number)]


@pytest.fixture(scope="module")
def said(scenes) -> list[tuple[Scene, int, Expression]]:
    return [(scene, number, each) for scene in scenes for number, each in scene_expressions(scene)]


def test_every_expression_means_its_object_and_nothing_else(said):
    for scene, number, each in said:
        assert each.targets == {number}
        assert referents(each.text, scene) == {number}


def test_an_object_has_two_or_three_expressions_and_every_second_has_a_place_or_a_relation(scenes, said):
    num_objects = sum(len(scene.objects) for scene in scenes)
    assert 2 <= len(said) / num_objects <= 3
    kinds = Counter(each.kind for _, _, each in said)
    assert kinds.keys() == {"attribute", "position", "relation"}
    assert 0.4 <= 1 - kinds["attribute"] / len(said) <= 0.6
    assert min(kinds.values()) > 0.08 * len(said)


def test_an_annotator_says_the_same_every_time_and_another_seed_says_other_things(scenes, said):
    again = [each for scene in scenes[:8] for _, each in scene_expressions(scene)]
    assert again == [each for _, _, each in said[: len(again)]]
    other = Scene(7, scenes[0].index, scenes[0].objects)
    assert scene_expressions(other) != scene_expressions(scenes[0])


@pytest.mark.parametrize(("gap", "num_said"), [(3.0, 0), (60.0, 2)])
def test_twins_are_told_apart_by_place_alone(gap, num_said):
    twins = [
        SceneObject(Attributes("fish", "red", "plain", "small"), (80.0 + x, 80.0 + x), 14.0, 0.0, (0, 0, 0))
        for x in (0, gap)
    ]
    scene = Scene(0, 5, tuple(twins))
    said = first_voice_expressions(scene, 0)
    assert len(said) >= num_said
    assert (not said) == (num_said == 0)
    assert all(each.kind != "attribute" for each in said)
