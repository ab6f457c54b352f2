"""Keys hold any name, and their golden values never change: image ids follow from them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.sources.keys import file_path, member_key, path_key, row_key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("été/猫.png", "%C3%A9t%C3%A9/%E7%8C%AB.png"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf%E9.jpg"),
        ("100%!#?.jpg", "100%25%21%23%3F.jpg"),
        ("a b~c-d_e.f", "a%20b~c-d_e.f"),
    ],
)
def test_keys_are_percent_encoded_bytes(path, key):
    assert path_key(path) == key
    assert file_path(key) == path


def test_members_and_rows_are_named_behind_their_file():
    assert member_key("a!b.tar", "../x#1.jpg") == "a%21b.tar!../x%231.jpg"
    assert row_key("t#.parquet", 17) == "t%23.parquet#17"


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.text())
def test_every_path_comes_back_from_every_key(name, member):
    path = name.decode("utf-8", "surrogateescape")
    for key in (path_key(path), row_key(path, 3)):
        assert file_path(key) == path
        assert key.isascii()


@given(st.lists(st.binary(min_size=1, max_size=4), unique=True))
def test_different_paths_have_different_keys(names):
    assert len({path_key(os.fsdecode(name)) for name in names}) == len(names)
