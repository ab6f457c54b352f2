"""Which images a rule excludes, by name and by content, and which it leaves alone."""

from __future__ import annotations

import pickle

import pytest

from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.ids import image_id
from pseudoris.store.exclusions.exclusion_rules import (
    ExclusionMatcher,
    Exclusions,
    beyond,
    exclusion,
    name_value,
)
from pseudoris.store.files.key_order import member_key, path_key, row_key


def names(*entries: str) -> Exclusions:
    return exclusion("names", "list.txt", map(name_value, entries))


def phashes(*hashes: str, distance: int = 2) -> Exclusions:
    return exclusion("phash", "table.csv", hashes, settings={"max_distance": distance})


@pytest.mark.parametrize(
    "key",
    [
        "COCO_train2014_000000000012.jpg",
        "a/b/000000000012.jpg",
        member_key("x.tar", "train/COCO_train2014_000000000012.jpg"),
        "COCO_val2014_000000000012_3.png",
        "COCO_train2014_000000000012_0123456789abcdef.jpg",
        "000000000012.webp",
    ],
)
def test_an_id_matches_every_form_of_cocos_names(key):
    for listed in ("12", "000000000012", "COCO_train2014_000000000012.jpg", "COCO_train2014_000000000012_99.jpg"):
        assert ExclusionMatcher(names(listed)).matched(key)[0] == 0


@pytest.mark.parametrize(
    "key",
    [
        *("COCO_train2014_000000000120.jpg", "COCO_train2014_000000000112.jpg", "12.jpg", "12", "a12.jpg"),
        *("0000000000012.jpg", "photo_000000000012.jpg", "COCO_train2014_12.jpg", "COCO_train2014_000000000012"),
        *("COCO_train2014_000000000012.jpg.txt.bak", row_key("t", 12)),
    ],
)
def test_an_id_matches_nothing_that_merely_contains_it(key):
    assert ExclusionMatcher(names("12")).matched(key)[0] is None


def test_a_listed_name_is_the_files_and_a_listed_path_the_end_of_the_keys():
    matcher = ExclusionMatcher(names("a cat.jpg", "dogs/1.jpg"))
    assert matcher.matched(path_key("any/folder/a cat.jpg"))[0] == 0
    assert matcher.matched(member_key("cats.tar", "val/a cat.jpg"))[0] == 0
    assert matcher.matched("more/dogs/1.jpg")[0] == 0
    for other in ("cats/1.jpg", "1.jpg", "hotdogs/1.jpg", path_key("not a cat.jpg"), "cat.jpg", "a%20cat.jpg/x.png"):
        assert matcher.matched(other)[0] is None


def test_a_file_of_an_export_excludes_the_image_that_it_came_from():
    matcher = ExclusionMatcher(names(f"holiday_{image_id('b/holiday.jpg')}.jpg"))
    assert matcher.matched("b/holiday.jpg")[0] == 0
    assert matcher.matched("c/holiday.jpg")[0] is None


def test_only_excludes_what_it_does_not_name_and_says_which_of_its_values_name_an_image():
    matcher = ExclusionMatcher(exclusion("only", "t", ["12", "a.jpg"]) + names("b/a.jpg"))
    keys = ("a.jpg", "b/a.jpg", "c.jpg", "COCO_train2014_000000000012.jpg")
    assert [matcher.matched(key)[0] for key in keys] == [None, 1, 0, None]
    assert [matcher.matched(key)[1] for key in keys] == [[1], [1], [], [0]]


def test_content_is_matched_by_digest_and_by_distance():
    matcher = ExclusionMatcher(exclusion("sha256", "t", ["ab" * 32]) + phashes("f0" * 8, distance=2))
    assert matcher.has_hashes
    assert matcher.by_content("ab" * 32) == 0
    near, far = f"{0xF0F0F0F0F0F0F0F0 ^ 0b11:016x}", f"{0xF0F0F0F0F0F0F0F0 ^ 0b111:016x}"
    assert matcher.by_content("00" * 32, near) == 1
    assert matcher.by_content("00" * 32, far) is None
    with pytest.raises(ImageError, match=r"excluded by table\.csv: its perceptual hash is within 2 bits") as caught:
        matcher.check("00" * 32, near)
    assert caught.value.reason == "excluded"


def test_a_rule_is_the_same_by_its_values_whatever_its_file_is_called():
    first = exclusion("names", "a.txt", ["x.jpg", "y.jpg"], files={"a.txt": "00" * 32})
    second = exclusion("names", "b.txt", ["y.jpg", "x.jpg"])
    assert first[0].identity == second[0].identity
    assert not beyond(first, second)
    assert beyond(first + names("z.jpg") + second, ()) == first + names("z.jpg")
    assert beyond(phashes("00" * 8, distance=2), phashes("00" * 8, distance=3))
    assert pickle.loads(pickle.dumps(first)) == first
    assert "values" not in first[0].model_dump()
