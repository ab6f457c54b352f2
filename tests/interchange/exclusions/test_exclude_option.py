"""Each kind of value of `--exclude`, and what is said of one that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE
from pseudoris.interchange.exclusions import as_exclusions, read_exclusions
from pseudoris.interchange.exclusions.exclude_option import read_name_list
from pseudoris.schemas.errors import ConfigError
from tests.builders.human import reference, write_images, write_refer, write_small_refer


@pytest.fixture
def paths(tmp_path):
    refer, images = write_small_refer(tmp_path, num_images=2)
    listed = tmp_path / "held out.txt"
    listed.write_text("a.jpg\n12\n")
    table = tmp_path / "bench.csv"
    table.write_text(f"sha256\n{'ab' * 32}\n")
    return [str(path) for path in (refer, listed, table, images)]


def test_every_kind_gives_its_rules_in_the_order_of_the_values(paths):
    found = read_exclusions(paths)
    kinds = [(rule.kind, rule.name) for rule in found]
    assert kinds == [
        ("refer", "refcoco"),
        ("names", "held out.txt"),
        ("sha256", "bench.csv"),
        ("sha256", "images"),
        ("phash", "images"),
    ]
    assert found[-1].settings == {"max_distance": DEFAULT_MAX_DISTANCE}


def test_a_value_that_is_given_twice_is_one_rule(paths):
    assert len(read_exclusions([paths[1], paths[1]])) == 1


def test_datasets_that_share_images_and_are_not_read_are_told(paths, caplog):
    (rule,) = read_exclusions(paths[:1])
    assert rule.title == "refcoco"
    assert "refcoco+ and refcocog, which share images with refcoco, were not read" in caplog.text
    caplog.clear()
    for name in ("refcoco+", "refcocog"):
        shutil.copytree(paths[0], Path(paths[0]).with_name(name))
    (rule,) = read_exclusions([str(Path(paths[0]).parent)])
    assert rule.title.endswith(" (refcoco, refcoco+, refcocog)")
    assert not caplog.text


def test_all_lists_of_only_are_one_rule_before_those_of_exclude(paths, tmp_path):
    (tmp_path / "more.txt").write_text("b.jpg\n12\n")
    only, held_out = read_exclusions([paths[1]], only=[paths[1], str(tmp_path / "more.txt")])
    assert (only.kind, only.option, only.num_values) == ("only", "--only held out.txt, more.txt", 3)
    assert (held_out.option, only.files.keys()) == ("--exclude held out.txt", {"held out.txt", "more.txt"})


def test_of_a_refer_folder_the_images_of_train_are_taken(paths):
    folder = Path(paths[0])
    found = read_exclusions([], only=[str(folder)])
    assert found[0].name == "train of refcoco/refs(unc).p"
    assert found[0].values == {"train2014/0.png", "train2014/1.png"}
    assert read_exclusions([], only=[str(folder / "refs(unc).p")]) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.txt", "--only '.*missing.txt' does not exist. Give a text file of names"),
        ("bench.csv", "is a table. Images are taken by name"),
        ("images", r"images has no refs\(…\).p. Give one file of references"),
        ("two", r"two has refs\(google\).p, refs\(umd\).p. Give one file of references"),
        ("two/refs(umd).p", "no reference of the split train. Its splits are: val"),
    ],
)
def test_what_names_no_images_is_refused(paths, tmp_path, value, message):
    for name in ("google", "umd"):
        found = [reference(1, 1, 1, "a", split="val")]
        write_refer(tmp_path / "two", [], [], found).joinpath("refs(unc).p").rename(
            tmp_path / "two" / f"refs({name}).p"
        )
    with pytest.raises(ConfigError, match=message):
        read_exclusions([], only=[str(tmp_path / value)])


def test_the_python_api_takes_one_path_several_or_rules(paths):
    one = as_exclusions(paths[1])
    assert one == as_exclusions([paths[1]]) == as_exclusions(one)
    assert as_exclusions(()) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.txt", r"'.*missing.txt' does not exist. Give a folder of a REFER dataset"),
        ("refs(unc).p", r"is a pickle. Give its folder"),
        ("empty", r"lists no image"),
    ],
)
def test_a_value_that_is_none_of_the_kinds_is_named(tmp_path, value, message):
    (tmp_path / "refs(unc).p").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        read_exclusions([str(tmp_path / value)])


def test_a_url_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a url: copy it to this machine"):
        read_exclusions(["s3://bucket/bench.parquet"])


@pytest.mark.parametrize("distance", [-1, 32])
def test_a_distance_out_of_range_is_refused(paths, distance):
    with pytest.raises(ConfigError, match=f"--exclude-distance {distance} is not possible"):
        read_exclusions(paths, distance)


def test_a_distance_without_a_perceptual_hash_is_refused(paths):
    with pytest.raises(ConfigError, match="--exclude-distance needs"):
        read_exclusions(paths[:3], 4)


def test_a_folder_of_images_is_hashed_and_a_broken_one_is_known_by_its_bytes(tmp_path):
    folder = write_images(tmp_path / "bench", "a.png", "b.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    by_bytes, by_look = read_exclusions([str(folder)], 3)
    assert (by_bytes.num_values, by_look.num_values) == (3, 2)
    assert by_look.settings == {"max_distance": 3}


def test_names_paths_and_ids_are_read_and_comments_are_not(tmp_path):
    path = tmp_path / "list.txt"
    lines = ("\ufeff# held out", "a cat.jpg", "", "  val/b.png ", "000000000012", "COCO_val2014_000000000013.jpg")
    path.write_bytes("\r\n".join(lines).encode())
    found = read_name_list(path)
    assert found[0].values == {"a cat.jpg", "val/b.png", "12", "13"}
    assert found[0].name == "list.txt"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "lists nothing. Write a file name or a COCO id on each line"),
        (b"# only\n\n", "lists nothing"),
        (b"a.jpg\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b"a.jpg\nb.jpg\tc.jpg\n", r"line 2 has the control characters of 'b.jpg\\tc.jpg'"),
        (b"ab" * 32, "line 1 is the sha256 abab.*column sha256"),
        (b"a.jpg\n/\n", "line 2 is '/', not a name"),
    ],
)
def test_a_file_that_lists_no_names_is_told_by_its_line(tmp_path, data, message):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_name_list(path)


def test_a_file_too_large_to_read_whole_is_told_by_its_size(tmp_path):
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ConfigError, match=r"list\.txt has 5,368,709,120 bytes, at most 4,294,967,296 are read"):
        read_name_list(path)
