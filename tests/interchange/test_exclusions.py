"""What `--exclude` and `--only` read of names, tables of hashes, images and REFER datasets, and what they refuse."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE
from pseudoris.interchange.exclusions import main, read_exclusions
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.exclusion_rules import ExclusionMatcher
from tests.builders.human import image_row, object_row, reference, write_images, write_refer, write_small_refer
from tests.builders.sources import parquet_bytes, write_files

SHA, PHASH = "ab" * 32, "1234567812345678"


def read(path, *options):
    return read_exclusions([str(path)], *options)


@pytest.fixture
def paths(tmp_path):
    refer, images = write_small_refer(tmp_path, num_images=2)
    listed = tmp_path / "held out.txt"
    listed.write_text("a.jpg\n12\n")
    return [str(path) for path in (refer, listed, write_table(tmp_path, "bench.csv", sha256=[SHA]), images)]


def write_table(folder, name, **columns):
    path = folder / name
    if name.endswith(".csv"):
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    else:
        path.write_bytes(parquet_bytes(columns))
    return path


def test_every_kind_gives_its_rules_once_in_the_order_of_the_values(paths):
    found = read_exclusions([*paths, paths[1]])
    assert [(rule.kind, rule.name) for rule in found] == [
        ("refer", "refcoco"),
        ("names", "held out.txt"),
        ("sha256", "bench.csv"),
        ("sha256", "images"),
        ("phash", "images"),
    ]
    assert found[-1].settings == {"max_distance": DEFAULT_MAX_DISTANCE}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.txt", r"'.*missing.txt' does not exist. Give a folder of a REFER dataset"),
        ("refs(unc).p", r"is a pickle. Give its folder"),
        ("empty", r"lists no image"),
        ("s3://bucket/bench.parquet", "is a url: copy it to this machine"),
    ],
)
def test_a_value_that_is_none_of_the_kinds_is_named(tmp_path, value, message):
    (tmp_path / "refs(unc).p").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        read(value if "://" in value else tmp_path / value)


@pytest.mark.parametrize(
    ("num_paths", "distance", "message"),
    [
        (4, -1, "--exclude-distance -1 is not possible"),
        (4, 32, "--exclude-distance 32 is not possible"),
        (3, 4, "--exclude-distance needs"),
    ],
)
def test_a_distance_out_of_range_or_without_a_perceptual_hash_is_refused(paths, num_paths, distance, message):
    with pytest.raises(ConfigError, match=message):
        read_exclusions(paths[:num_paths], distance)


# Images to take.


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
        write_refs(tmp_path / "two", name, [reference(1, 1, 1, "a", split="val")])
    with pytest.raises(ConfigError, match=message):
        read_exclusions([], only=[str(tmp_path / value)])


# Lists of names.


def test_names_paths_and_ids_are_read_and_comments_are_not(tmp_path):
    path = tmp_path / "list.txt"
    lines = ("\ufeff# held out", "a cat.jpg", "", "  val/b.png ", "000000000012", "COCO_val2014_000000000013.jpg")
    path.write_bytes("\r\n".join(lines).encode())
    assert read(path)[0].values == {"a cat.jpg", "val/b.png", "12", "13"}


TWICE = pa.table([[SHA], [SHA]], ["sha256", "sha256"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.txt", b"", "lists nothing. Write a file name or a COCO id on each line"),
        ("list.txt", b"# only\n\n", "lists nothing"),
        ("list.txt", b"a.jpg\n\xff\xfe\n", "line 2 is not UTF-8"),
        ("list.txt", b"a.jpg\nb.jpg\tc.jpg\n", r"line 2 has the control characters of 'b.jpg\\tc.jpg'"),
        ("list.txt", b"ab" * 32, "line 1 is the sha256 abab.*column sha256"),
        ("list.txt", b"a.jpg\n/\n", "line 2 is '/', not a name"),
        ("bench.parquet", b"\x00\xff\n" * 3, "bench.parquet cannot be read as"),
        ("bench.csv", b"", "bench.csv cannot be read as"),
        ("bench.csv", b"sha256,caf\xe9\nab,a\n", "read as csv: 'utf-8' codec can't decode.*Write the file"),
        ("bench.parquet", parquet_bytes(TWICE), "has the column sha256 2 times. Keep one of them"),
        ("bench.csv", b"sha256,sha256\nab,ab\n", "has the column sha256 2 times. Keep one of them"),
    ],
)
def test_a_file_of_no_names_and_one_that_is_no_table_of_hashes_are_told_by_the_fault(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_file_too_large_to_read_whole_is_told_by_its_size(tmp_path):
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ConfigError, match=r"list\.txt has 5,368,709,120 bytes, at most 4,294,967,296 are read"):
        read(path)


# Hashes: of a folder of images, or in a table, Parquet or CSV.

TABLES = pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])


@TABLES
def test_each_column_becomes_a_rule_and_hashes_of_digits_stay_text(tmp_path, name):
    found = read(write_table(tmp_path, name, key=["a"], sha256=[SHA.upper()], phash=[PHASH]), 5)
    assert [(rule.kind, rule.settings) for rule in found] == [("sha256", {}), ("phash", {"max_distance": 5})]
    assert [rule.values for rule in found] == [{SHA}, {PHASH}]


def test_an_image_without_a_perceptual_hash_is_known_by_its_bytes(tmp_path):
    found = read(write_table(tmp_path, "bench.csv", sha256=[SHA], phash=[""]))
    assert [rule.kind for rule in found] == ["sha256"]


@TABLES
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"digest": [SHA]}, r"has no column sha256 or phash; its columns are 'digest'"),
        ({"sha256": [SHA, "xyz"]}, "row 2 has the sha256 'xyz'. 64 hex digits are needed"),
        ({"phash": ["12"]}, "row 1 has the phash '12'. 16 hex digits are needed.*imagehash.phash"),
        ({"sha256": [""]}, "has no row with a sha256"),
    ],
)
def test_a_table_that_is_none_of_hashes_is_told_by_row_and_value(tmp_path, name, columns, message):
    with pytest.raises(ConfigError, match=message):
        read(write_table(tmp_path, name, **columns))


def test_a_folder_of_images_is_hashed_and_a_broken_one_is_known_by_its_bytes(tmp_path):
    folder = write_images(tmp_path / "bench", "a.png", "b.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    by_bytes, by_look = read(folder, 3)
    assert (by_bytes.num_values, by_look.num_values) == (3, 2)
    assert by_look.settings == {"max_distance": 3}


@pytest.mark.slow
@TABLES
def test_the_table_that_the_command_writes_of_a_folder_excludes_what_the_folder_does(
    tmp_path, monkeypatch, capsys, name
):
    folder = write_images(tmp_path / "bench", "a.png", "b.png")
    monkeypatch.setattr(sys, "argv", ["x", str(folder), str(tmp_path / name)])
    assert main() == 0
    assert "2 images" in capsys.readouterr().out
    assert [rule.values for rule in read(tmp_path / name)] == [rule.values for rule in read(folder)]


def test_a_table_in_a_missing_folder_is_refused_before_any_image_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "no images"), str(tmp_path / "none" / "t.csv")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"there is no folder {tmp_path / 'none'}: make it" in capsys.readouterr().err


def test_a_folder_without_images_is_told_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), str(tmp_path / "t.csv")])
    assert main() == 2
    assert "lists no image" in capsys.readouterr().err


# REFER datasets: the union over files, splits and sibling datasets, by name and COCO id.


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def refs(**splits: list[int]) -> list[dict]:
    """A reference an image, with the file names of RefCOCO's pickles."""
    return [
        reference(n, n, n, "thing", split=split, file_name=coco_name(n).replace(".jpg", f"_{n}.jpg"))
        for split, numbers in splits.items()
        for n in numbers
    ]


def write_refs(folder, splits_by, found):
    return write_files(folder, {f"refs({splits_by}).p": pickle.dumps(found, 2)})


def excluded(folder, numbers) -> list[int]:
    matcher = ExclusionMatcher(read(folder))
    return [n for n in numbers if matcher.matched(f"train2014/{coco_name(n)}")[0] is not None]


def test_the_names_of_windows_need_no_instances_beside_them(tmp_path):
    found = [{**ref, "file_name": f"train2014\\{ref['file_name']}"} for ref in refs(val=[3])]
    assert excluded(write_refs(tmp_path / "refcoco", "unc", found), [3, 4]) == [3]


def test_every_split_but_train_of_all_files_is_excluded_and_recorded(tmp_path):
    folder = write_refs(tmp_path / "refcocog", "google", refs(train=[1, 2], val=[3]))
    write_refs(folder, "umd", refs(train=[3], val=[1], test=[4], testA=[5], testB=[6], test2=[7]))
    assert excluded(folder, range(1, 9)) == [1, 3, 4, 5, 6, 7]
    (rule,) = read(folder)
    assert set(rule.files) == {"refcocog/refs(google).p", "refcocog/refs(umd).p"}
    assert rule.settings == {"splits": ["val", "test", "testA", "testB", "test2"]}


def test_of_a_folder_of_datasets_the_union_of_all_is_excluded(tmp_path, monkeypatch):
    write_refs(tmp_path / "data" / "refcoco", "unc", refs(train=[1], testA=[2]))
    write_refs(tmp_path / "data" / "refcoco+", "unc", refs(train=[2], testB=[1]))
    # One of them stands for those beside it, and the folder above for all.
    for folder in (tmp_path / "data", tmp_path / "data" / "refcoco", tmp_path):
        assert excluded(folder, [1, 2, 3]) == [1, 2]
        assert read(folder)[0].datasets == ["refcoco", "refcoco+"]
    monkeypatch.chdir(tmp_path / "data" / "refcoco")
    assert excluded(Path(), [1, 2, 3]) == [1, 2]


def test_a_dataset_of_its_own_does_not_stand_for_those_beside_it(tmp_path):
    write_refs(tmp_path / "data" / "own", "unc", refs(testA=[1]))
    write_refs(tmp_path / "data" / "refcoco", "unc", refs(testA=[2]))
    assert excluded(tmp_path / "data" / "own", [1, 2]) == [1]
    assert excluded(tmp_path / "data" / "refcoco", [1, 2]) == [2]


def test_datasets_that_share_images_and_are_not_read_are_told(paths, caplog):
    (rule,) = read(paths[0])
    assert rule.title == "refcoco"
    assert "refcoco+ and refcocog, which share images with refcoco, were not read" in caplog.text
    caplog.clear()
    for name in ("refcoco+", "refcocog"):
        shutil.copytree(paths[0], Path(paths[0]).with_name(name))
    (rule,) = read(Path(paths[0]).parent)
    assert rule.title.endswith(" (refcoco, refcoco+, refcocog)")
    assert not caplog.text


def test_names_of_other_forms_are_read_from_instances(tmp_path):
    images = [image_row(n, f"street-{n}.png") for n in (1, 2)]
    objects = [object_row(n, n) for n in (1, 2)]
    found = [reference(1, 1, 1, "a", split="train"), reference(2, 2, 2, "b", split="val")]
    (rule,) = read(write_refer(tmp_path / "own", images, objects, found))
    matcher = ExclusionMatcher((rule,))
    assert (matcher.matched("x/street-2.png")[0], matcher.matched("street-1.png")[0]) == (0, None)
    # Numbers of another dataset are no COCO ids.
    assert matcher.matched(coco_name(2))[0] is None
    assert set(rule.files) == {"own/refs(unc).p", "own/instances.json"}


HELD_OUT = pickle.dumps([reference(7, 1, 9, "a", split="val")], 2)


@pytest.mark.parametrize(
    ("data", "instances", "message"),
    [
        (b"not a pickle", None, r"refs\(unc\).p cannot be read as a pickle"),
        (pickle.dumps(refs(train=[1]), 2), None, "no reference of a split that is held out.*Their splits are: train"),
        (pickle.dumps([], 2), None, "Their splits are: none"),
        (HELD_OUT, None, "there is no .*instances.json"),
        (HELD_OUT, '{"images": [{"id": 1, "file_name": "a.png"}]}', "reference 7 names image_id 9"),
        (HELD_OUT, '{"images": [{"id": 1}]}', r"not an instances\.json with images that have id and file_name"),
    ],
)
def test_a_file_that_is_none_of_refers_is_named(tmp_path, data, instances, message):
    (tmp_path / "refs(unc).p").write_bytes(data)
    if instances:
        (tmp_path / "instances.json").write_text(instances)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path)
