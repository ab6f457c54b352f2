"""Every world is its own, the default one is what it was, and the words stay true in all of them."""

from __future__ import annotations

import hashlib
import json

import pytest
from typer.testing import CliRunner

from evidence.recipes.scene_texts import realise
from pseudoris.cli.main import app
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.synthworld.demo import TRUTH_FILE, write_demo
from pseudoris.synthworld.grammar import Description
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import SceneTruth, referents
from pseudoris.synthworld.scenes import DEFAULT_WORLD, WORLDS, Split, make_scene, world_named
from tests.builders.scene_runs import scene_run

OTHERS = sorted(WORLDS.keys() - {DEFAULT_WORLD})


def digest(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_what_the_default_world_holds_is_what_it_was():
    held = [(s.seed, s.index, s.objects) for split in Split for s in (make_scene(split, at) for at in range(40))]
    assert digest(repr(held).encode()) == "4da58dc3f53735e5"


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        ("default", "baec89f3a3f34bf1"),
        ("second", "dcdcbee33cabc742"),
        ("shifted", "5b7b8cb6179bc8eb"),
        ("crowded", "82cd31fbcfc2bb68"),
        ("fourth", "1b9ff3137e1a21bf"),
        ("fifth", "e964ba61849d7392"),
    ],
)
def test_the_pixels_of_a_world_are_the_published_ones(world, expected):
    painted = [render(make_scene(Split.TEST, at, world=world)) for at in range(6)]
    assert digest(*(part.tobytes() for each in painted for part in (each.image, each.masks))) == expected


@pytest.mark.parametrize("world", OTHERS)
def test_the_oracle_finds_each_object_by_all_of_its_words(world):
    for at in range(20):
        scene = make_scene(Split.TEST, at, world=world)
        for number, item in enumerate(scene.objects):
            said = realise(Description(**vars(item.attributes)))
            found = referents(said, scene)
            assert number in found
            # Who has no part is described by words that also fit the same object with one.
            assert all(
                vars(scene.objects[n].attributes) | {"part": None} == vars(item.attributes) | {"part": None}
                for n in found
            )


def test_an_unknown_world_is_refused_with_those_that_there_are(tmp_path):
    for ask in (lambda: world_named("third"), lambda: make_scene(Split.TEST, 0, world="third")):
        with pytest.raises(
            ConfigError, match=r"no world 'third'\. The worlds are default, second, shifted, crowded, fourth, fifth"
        ):
            ask()
    with pytest.raises(ConfigError, match="no world 'third'"):
        write_demo(tmp_path / "demo", num_scenes=1, world="third")
    assert not (tmp_path / "demo").exists()


def test_a_set_of_another_world_is_written_and_judged_by_its_own_truth(tmp_path):
    images = write_demo(tmp_path, num_scenes=2, world="second")
    assert {entry["world"] for entry in json.loads((tmp_path / TRUTH_FILE).read_text()).values() if entry} == {"second"}
    known = {f"scene-{at:03d}.png": make_scene(Split.DEMO, at, world="second") for at in range(2)}
    scene_run(RunLocation.open(str(tmp_path / "run")), known, source=str(images))
    outcome = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--truth", "synthworld", "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert "'second'" in found["truth"]
    assert found["images"]["judged"] == 2
    assert 0 < found["sets"]["kept"]["accuracy"]["value"] < 1


def test_a_truth_without_a_world_is_of_the_default_one_and_an_unknown_world_is_refused(tmp_path):
    write_demo(tmp_path, num_scenes=1)
    tree = json.loads((tmp_path / TRUTH_FILE).read_text())
    del tree["scene-000.png"]["world"]
    known = SceneTruth.from_json(json.dumps(tree).encode(), "truth.json")
    assert known._scenes[next(iter(known._scenes))] == make_scene(Split.DEMO, 0)
    tree["scene-000.png"]["world"] = "third"
    with pytest.raises(ConfigError, match="has the world 'third'"):
        SceneTruth.from_json(json.dumps(tree).encode(), "truth.json")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_demo_set_is_the_same_every_time_and_left_alone_the_second(tmp_path):
    images = write_demo(tmp_path / "one", num_scenes=10)
    stamps = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    assert write_demo(tmp_path / "one", num_scenes=10) == images
    assert {path: path.stat().st_mtime_ns for path in images.iterdir()} == stamps
    write_demo(tmp_path / "two", num_scenes=10)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/demo/images cannot be made: Not a directory\. Name another folder"):
        write_demo(tmp_path / "file" / "demo", num_scenes=1)
