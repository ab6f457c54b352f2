"""Which rows of an instance table belong to which image."""

import logging

import pytest

from schemas.errors import ConfigError
from workers.masks.instances import Instances
from workers.masks.prior_table import InstanceTable

SIZE = (4, 4)
IMAGE_ID = "00000000000000aa"


def table_of(*names):
    return InstanceTable(enumerate(names), lambda row, size: f"code {row} {size}", path="t.parquet")


def rows(table, key, image_id=IMAGE_ID):
    return table.instances(image_id, key, SIZE).rows


def test_rows_come_with_their_masks_in_ascending_order():
    found = table_of("a.jpg", "b.jpg", "a.jpg").instances(IMAGE_ID, "a.jpg", SIZE)
    assert found == Instances(("code 0 (4, 4)", "code 2 (4, 4)"), (0, 2))


def test_an_image_is_found_by_its_id():
    assert rows(table_of("x.jpg", IMAGE_ID), "folder/a.jpg") == (1,)


@pytest.mark.parametrize("name", ["sch%C3%B6n/a%20b.jpg", "schön/a b.jpg", "a b.jpg", "a%20b.jpg"])
def test_an_image_is_found_by_its_key_percent_encoded_or_plain(name):
    assert rows(table_of(name), "sch%C3%B6n/a%20b.jpg") == (0,)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "train/a.jpg"),
        ("train/a.jpg", "a.jpg"),
        ("data/train/a.jpg", "train/a.jpg"),
        ("a.jpg", "00.tar!deep/a.jpg"),
        ("deep/a.jpg", "00.tar!deep/a.jpg"),
        ("file.parquet#3", "file.parquet#3"),
    ],
)
def test_an_image_is_found_where_one_path_ends_in_the_other(name, key):
    assert rows(table_of("other.jpg", name), key) == (1,)


@pytest.mark.parametrize(
    ("name", "key"), [("val/a.jpg", "train/a.jpg"), ("ba.jpg", "a.jpg"), ("a.jpg", "a.jpg/b.jpg"), ("", "a.jpg")]
)
def test_another_images_rows_are_not_taken(name, key):
    assert rows(table_of(name), key) == ()


def test_the_exact_key_wins_over_a_name_that_fits():
    assert rows(table_of("a.jpg", "train/a.jpg"), "train/a.jpg") == (1,)


def test_several_names_that_fit_are_refused():
    with pytest.raises(ConfigError, match=r"image a\.jpg may be any of train/a\.jpg, val/a\.jpg: name images by"):
        rows(table_of("train/a.jpg", "val/a.jpg"), "a.jpg")


def test_an_image_without_rows_has_no_instances_and_is_named_once(caplog):
    table = table_of("a.jpg")
    with caplog.at_level(logging.WARNING):
        assert [rows(table, key) for key in ("b.jpg", "c.jpg")] == [(), ()]
    assert [record.getMessage() for record in caplog.records] == [
        "image b.jpg has no row in prior.path=t.parquet, so it gets no mask (said once)"
    ]
