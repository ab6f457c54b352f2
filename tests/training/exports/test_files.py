"""A large file stands whole or not at all, on a disk and in buckets, and memory does not hold it."""

from __future__ import annotations

import tracemalloc
import uuid
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from schemas.placement import StorageConfig
from store.location import RunLocation
from training.exports.files import new_file

PART = 5 * 2**20


@pytest.fixture(params=["disk", "objects", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        limits = StorageConfig(multipart_bytes=PART)
        return RunLocation.open(f"s3://{server.new_bucket()}/a place", server.endpoint_url, limits)
    root = tmp_path / "a place" if request.param == "disk" else f"memory://files-{uuid.uuid4().hex}"
    return RunLocation.open(str(root))


@pytest.mark.parametrize("size_bytes", [0, 10, PART, 2 * PART + 1])
def test_what_was_written_to_the_path_stands_at_the_place(place, size_bytes):
    data = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    with new_file(place, "folder/large.bin") as path:
        path.write_bytes(data)
        assert not place.exists("folder/large.bin")
    assert place.read_bytes("folder/large.bin") == data
    assert not path.exists()


def test_a_block_that_fails_leaves_the_former_file_and_nothing_else(place):
    place.replace("large.bin", b"former")

    def fail():
        with new_file(place, "large.bin") as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert place.read_bytes("large.bin") == b"former"
    assert [file.name for file in place.list("")] == ["large.bin"]
    assert list(place.list_temporary("")) == []


def test_a_large_file_goes_to_a_bucket_in_parts_and_is_never_in_memory_whole(s3_server, s3_bucket):
    limits = StorageConfig(multipart_bytes=PART)
    place = RunLocation.open(f"s3://{s3_bucket}/place", s3_server.endpoint_url, limits)
    size_bytes = 20 * PART
    with new_file(place, "large.bin") as path:
        with path.open("wb") as file:
            file.truncate(size_bytes)
        tracemalloc.start()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert place.size("large.bin") == size_bytes
    # Four parts on their way, each held twice while it is sent.
    assert peak < 10 * PART
    assert list(place.list_uploads()) == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ConfigError, match="a part of the path is a file"),
        new_file(RunLocation.open(str(tmp_path / "file")), "large.bin") as path,
    ):
        Path(path).write_text("never")
