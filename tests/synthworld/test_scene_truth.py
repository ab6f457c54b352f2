"""Scenes as a truth: what the oracle says through it, and what a file must hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.demo import TRUTH_FILE, write_demo
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import SceneImageTruth, SceneTruth
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from pseudoris.workers.masks import rle
from tests.builders.scene_runs import scenes, truth_bytes


def item(category, colour, *, part=None):
    return SceneObject(Attributes(category, colour, "plain", "large", part), (96.0, 96.0), 24.0, 0.0, (0, 0, 0))


SCENE = Scene(0, 1, (item("circle", "orange"), item("circle", "blue", part="hat"), item("star", "orange")))


def test_a_scene_has_the_masks_that_are_painted():
    scene = make_scene(Split.DEMO, 3)
    truth = SceneImageTruth(scene)
    assert (rle.decode(truth.masks, truth.size) == render(scene).masks).all()
    given = np.zeros((1, 192, 192), dtype=bool)
    assert rle.areas(SceneImageTruth(scene, given).masks, truth.size).tolist() == [0]


@pytest.mark.parametrize(
    ("text", "number", "counts"),
    [
        ("a large plain blue circle with a hat", 1, (5, 5, 5)),
        ("a large plain orange circle", 0, (4, 4, 4)),
        ("the small orange circle with a tail", 0, (4, 2, 4)),
        ("a star on the left", 0, (1, 0, 4)),
        ("no caption at all", 1, (0, 0, 5)),
    ],
)
def test_attributes_are_stated_true_and_known(text, number, counts):
    assert SceneImageTruth(SCENE).attributes(text, number) == counts


def test_difficulty_and_group_follow_from_the_attributes():
    truth = SceneImageTruth(SCENE)
    assert [truth.num_alike(number) for number in range(3)] == [1, 1, 0]
    assert {truth.group(number) for number in range(3)} <= {"seen", "held_out"}
    assert SceneImageTruth(Scene(0, 1, (item("circle", "red"),))).group(0) == "held_out"


def test_the_demonstrations_file_is_read_and_broken_files_have_no_truth(tmp_path):
    images = write_demo(tmp_path, num_scenes=3)
    truth = SceneTruth.from_json((tmp_path / TRUTH_FILE).read_bytes(), "truth.json")
    assert (truth.num_images, truth.example_key) == (3, "scene-000.png")
    assert truth.of_image(image_id("broken-text.jpg")) is None
    assert (images / "broken-text.jpg").exists()
    found = truth.of_image(image_id("scene-002.png"))
    assert found is not None
    assert found.masks == SceneImageTruth(make_scene(Split.DEMO, 2)).masks


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1}', b'{"a": {"seed": 0}}', b"\xff", b"[" * 100_000])
def test_what_is_no_truth_is_refused_by_its_name(data):
    with pytest.raises(ConfigError, match=r"here/truth\.json is not a truth of the synthetic world"):
        SceneTruth.from_json(data, "here/truth.json")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("objects", 0, "attributes", "category"), "cube", "has the category 'cube'"),
        (("objects", 0, "attributes", "colour"), None, "not a truth of the synthetic world"),
        (("objects", 0, "radius_px"), 1e9, "Up to 192 pixels"),
        (("objects", 0, "centre_xy_px"), [float("nan"), 3.0], "Up to 192 pixels"),
        (("objects",), [], "has no object"),
        (("seed",), -1, "seed -1"),
    ],
)
def test_what_cannot_be_painted_is_refused(path, value, match):
    tree = json.loads(truth_bytes(scenes(1)))
    place = tree["scene-000.png"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=match):
        SceneTruth.from_json(json.dumps(tree).encode(), "truth.json")
