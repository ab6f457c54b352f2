"""Keys hold any name, and their golden values never change: image ids follow from them.

Sorting beyond memory: the same as `sorted`, in bounded memory, and nothing left on disk.
"""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files import key_order
from pseudoris.store.files.key_order import file_path, path_key, row_key, sorted_externally


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


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.text())
def test_every_path_comes_back_from_every_key(name, member):
    path = name.decode("utf-8", "surrogateescape")
    for key in (path_key(path), row_key(path, 3)):
        assert file_path(key) == path
        assert key.isascii()


@given(keys=st.lists(st.text(max_size=3), max_size=80), max_in_memory=st.integers(1, 90))
@example(keys=[f"{150 - n:03d}" for n in range(150)], max_in_memory=1)
def test_the_order_is_that_of_sorted_whatever_fits_into_memory(keys, max_in_memory):
    records = [(key, number) for number, key in enumerate(keys)]
    assert list(sorted_externally(records, max_in_memory=max_in_memory)) == sorted(records, key=lambda it: it[0])


def test_a_full_temporary_disk_is_the_users_to_mend(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(key_order.pickle, "dump", full)
    with pytest.raises(ConfigError, match=r"sort the listing on disk \(set TMPDIR to use another\).*the disk is full"):
        list(sorted_externally(((n,) for n in range(10)), max_in_memory=4))
