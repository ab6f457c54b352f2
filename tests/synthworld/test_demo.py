import json

import pytest

from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.synthworld.demo import broken_files, write_demo
from pseudoris.synthworld.scenes import Split, make_scene


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


def test_the_truth_names_every_file(tmp_path):
    images = write_demo(tmp_path, num_scenes=9)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert set(truth) == {path.name for path in images.iterdir()}
    scene = make_scene(Split.DEMO, 0)
    assert [o["attributes"]["category"] for o in truth["scene-000.png"]["objects"]] == [
        item.attributes.category for item in scene.objects
    ]


@pytest.mark.parametrize("name", sorted(broken_files()))
def test_the_broken_files_are_broken(name):
    with pytest.raises(
        ImageError, match=r"cut short|no bytes|no decoder recognises|header is truncated|stopped before|damaged"
    ):
        decode_upright(broken_files()[name], ImagesConfig())
