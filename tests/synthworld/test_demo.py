import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.synthworld.demo import write_demo


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
