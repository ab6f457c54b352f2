"""The held-out images of REFER datasets: the union over files, splits and sibling datasets, by name and COCO id."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pseudoris.interchange.exclusions.exclude_option import read_refer_folder, refer_files
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.exclusions.exclusion_rules import ExclusionMatcher
from tests.builders.human import image_row, object_row, reference, write_refer


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def refs(**splits: list[int]) -> list[dict]:
    """A reference an image, with the file names of RefCOCO's pickles."""
    return [
        reference(n, n, n, "thing", split=split, file_name=coco_name(n).replace(".jpg", f"_{n}.jpg"))
        for split, numbers in splits.items()
        for n in numbers
    ]


def write(folder, splits_by, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({splits_by}).p").write_bytes(pickle.dumps(found, 2))
    return folder


def excluded(folder, numbers) -> list[int]:
    matcher = ExclusionMatcher(read_refer_folder(folder))
    return [n for n in numbers if matcher.matched(f"train2014/{coco_name(n)}")[0] is not None]


def test_the_names_of_windows_need_no_instances_beside_them(tmp_path):
    found = [{**ref, "file_name": f"train2014\\{ref['file_name']}"} for ref in refs(val=[3])]
    assert excluded(write(tmp_path / "refcoco", "unc", found), [3, 4]) == [3]


def test_every_split_but_train_of_all_files_is_excluded_and_recorded(tmp_path):
    folder = write(tmp_path / "refcocog", "google", refs(train=[1, 2], val=[3]))
    write(folder, "umd", refs(train=[3], val=[1], test=[4], testA=[5], testB=[6], test2=[7]))
    assert excluded(folder, range(1, 9)) == [1, 3, 4, 5, 6, 7]
    (rule,) = read_refer_folder(folder)
    assert set(rule.files) == {"refcocog/refs(google).p", "refcocog/refs(umd).p"}
    assert rule.settings == {"splits": ["val", "test", "testA", "testB", "test2"]}


def test_of_a_folder_of_datasets_the_union_of_all_is_excluded(tmp_path, monkeypatch):
    write(tmp_path / "data" / "refcoco", "unc", refs(train=[1], testA=[2]))
    write(tmp_path / "data" / "refcoco+", "unc", refs(train=[2], testB=[1]))
    assert excluded(tmp_path / "data", [1, 2, 3]) == [1, 2]
    # One of them stands for those beside it, and the folder above for all.
    for folder in (tmp_path / "data" / "refcoco", tmp_path):
        assert excluded(folder, [1, 2, 3]) == [1, 2]
        assert read_refer_folder(folder)[0].datasets == ["refcoco", "refcoco+"]
    assert len(refer_files(tmp_path / "data")) == 2
    monkeypatch.chdir(tmp_path / "data" / "refcoco")
    assert excluded(Path(), [1, 2, 3]) == [1, 2]


def test_a_dataset_of_its_own_does_not_stand_for_those_beside_it(tmp_path):
    write(tmp_path / "data" / "own", "unc", refs(testA=[1]))
    write(tmp_path / "data" / "refcoco", "unc", refs(testA=[2]))
    assert excluded(tmp_path / "data" / "own", [1, 2]) == [1]
    assert excluded(tmp_path / "data" / "refcoco", [1, 2]) == [2]


def test_names_of_other_forms_are_read_from_instances(tmp_path):
    images = [image_row(n, f"street-{n}.png") for n in (1, 2)]
    objects = [object_row(n, n) for n in (1, 2)]
    found = [reference(1, 1, 1, "a", split="train"), reference(2, 2, 2, "b", split="val")]
    folder = write_refer(tmp_path / "own", images, objects, found)
    matcher = ExclusionMatcher(read_refer_folder(folder))
    assert (matcher.matched("x/street-2.png")[0], matcher.matched("street-1.png")[0]) == (0, None)
    # Numbers of another dataset are no COCO ids.
    assert matcher.matched(coco_name(2))[0] is None
    assert set(read_refer_folder(folder)[0].files) == {"own/refs(unc).p", "own/instances.json"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a pickle", r"refs\(unc\).p cannot be read as a pickle"),
        (pickle.dumps({"a": 1}, 2), "has an object, not REFER's list"),
        (pickle.dumps([{"split": "val"}], 2), "reference number 0 has no 'ref_id'"),
        (pickle.dumps(refs(train=[1, 2]), 2), r"no reference of a split that is held out.*Their splits are: train"),
        (pickle.dumps([], 2), r"Their splits are: none"),
        (pickle.dumps([reference(1, 1, 1, "a", split="val")], 2), "there is no .*instances.json"),
    ],
)
def test_a_file_that_is_none_of_refers_is_named(tmp_path, data, message):
    (tmp_path / "refs(unc).p").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_refer_folder(tmp_path)


def test_a_reference_to_an_unknown_image_is_named(tmp_path):
    found = [reference(7, 1, 9, "a", split="val")]
    folder = write_refer(tmp_path, [image_row(1, "a.png")], [object_row(1, 1)], found)
    with pytest.raises(ConfigError, match="reference 7 names image_id 9"):
        read_refer_folder(folder)


def test_an_instances_file_of_another_form_is_named(tmp_path):
    folder = write(tmp_path, "unc", [reference(1, 1, 1, "a", split="val")])
    (folder / "instances.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(ConfigError, match=r"is not an instances\.json with images that have id and file_name"):
        read_refer_folder(folder)
