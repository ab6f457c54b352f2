from __future__ import annotations

import uuid

import fsspec
import pytest

from store.object_files import ObjectFiles


@pytest.fixture
def files():
    return ObjectFiles(fsspec.filesystem("memory"), f"/bucket-{uuid.uuid4().hex}/run")


def test_a_listing_holds_the_objects_of_one_folder_and_not_of_those_below(files):
    files.put("masks/a", b"123")
    files.put("masks/deeper/b", b"1")
    assert [(file.name, file.size_bytes) for file in files.list("masks")] == [("a", 3)]


def test_a_prefix_is_no_object(files):
    files.put("masks/a", b"123")
    assert files.size("masks") is None
    assert files.size("masks/a") == 3


def test_deleting_what_is_not_there_is_no_error(files):
    files.delete("nothing")
    assert list(files.list("")) == []


def test_an_unfinished_put_leaves_nothing_to_list(files):
    assert list(files.list_temporary("masks")) == []


def test_an_object_is_read_in_ranges(files):
    files.put("plan", b"0123456789")
    with files.open("plan") as file:
        file.seek(4)
        assert file.read(3) == b"456"
