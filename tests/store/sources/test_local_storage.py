"""A folder on disk: what stands where, in which order, and to the nanosecond."""

from __future__ import annotations

import os

import pytest

from store.sources.local_storage import LocalStorage
from store.sources.patterns import ALL_FILES


def test_a_file_is_described_to_the_byte_and_the_nanosecond(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", ns=(1, 1_700_000_000_123_456_789))
    found = LocalStorage(tmp_path).stat("a")
    assert (found.size_bytes, found.mtime_ns, found.etag) == (3, 1_700_000_000_123_456_789, None)


def test_kinds_are_told_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    storage = LocalStorage(tmp_path)
    assert [storage.kind(path) for path in ("", "a", "b", "a/below a file")] == ["folder", "file", None, None]


def test_a_pipe_is_refused_before_it_could_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="is no regular file"):
        LocalStorage(tmp_path).open("pipe")


def test_folders_stand_where_the_keys_below_them_do(tmp_path):
    for name in ("a.b", "a-b", "a0"):
        (tmp_path / name).touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    assert [file.path for file in LocalStorage(tmp_path).walk(ALL_FILES.may_descend)] == ["a-b", "a.b", "a/x", "a0"]


def test_only_folders_that_may_hold_something_are_visited(tmp_path):
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "x").touch()
    (tmp_path / "y").touch()
    assert [file.path for file in LocalStorage(tmp_path).walk(lambda folder: False)] == ["y"]


def test_a_name_that_is_not_utf8_is_printable_in_messages(tmp_path):
    assert LocalStorage(tmp_path).describe(os.fsdecode(b"caf\xe9")).endswith(r"caf\xe9")
