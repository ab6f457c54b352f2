"""Large files stand whole or not at all; many files are written and read at once, in order, within bounded memory."""

from __future__ import annotations

import json
import time
import tracemalloc
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.interchange.exports.output_files import ManyFiles, iter_json_arrays, json_arrays, new_file
from pseudoris.schemas.errors import TransientError
from pseudoris.store.files import s3_storage
from pseudoris.store.location import RunLocation

PART = 5 * 2**20


@pytest.fixture(autouse=True)
def small_uploads(monkeypatch):
    monkeypatch.setattr(s3_storage, "MULTIPART_BYTES", PART)


@pytest.fixture(params=["disk", "objects", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        return RunLocation.open(f"s3://{server.new_bucket()}/a place", server.endpoint_url)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_large_file_goes_to_a_bucket_in_parts_and_is_never_in_memory_whole(s3_server, s3_bucket):
    place = RunLocation.open(f"s3://{s3_bucket}/place", s3_server.endpoint_url)
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


@pytest.mark.parametrize("name", ["0.txt", "79.txt"], ids=["first", "last"])
def test_what_failed_in_the_background_is_raised(tmp_path, monkeypatch, name):
    real = RunLocation.replace

    def failing(self, path, data):
        if path.endswith(f"/{name}"):
            raise TransientError(f"cannot write {path}")
        real(self, path, data)

    monkeypatch.setattr(RunLocation, "replace", failing)

    def write_all():
        with ManyFiles(RunLocation.open(str(tmp_path))) as files:
            for number in range(80):
                files.write("a", f"{number}.txt", b"x")

    with pytest.raises(TransientError, match=f"cannot write a/{name}"):
        write_all()


def test_what_waits_is_bounded_in_bytes(tmp_path, monkeypatch):
    """Of files of 50 MiB two may wait; one that is larger than the bound of 128 MiB waits alone."""
    written, whole = [], bytes(200 * 2**20)

    def slow(self, path, data):
        time.sleep(0.02)
        written.append(path)

    monkeypatch.setattr(RunLocation, "replace", slow)
    with ManyFiles(RunLocation.open(str(tmp_path))) as files:
        for number in range(12):
            is_large = number == 6
            files.write("a", f"{number}.txt", memoryview(whole)[: (200 if is_large else 50) * 2**20])
            assert files.num_files - len(written) <= (1 if is_large else 2)
    assert len(written) == 12


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(["images", 'annot"s', "]}"]), VALUES), max_size=12))
def test_any_elements_read_back_here_and_anywhere(tmp_path_factory, elements):
    path = tmp_path_factory.mktemp("json") / "x.json"
    names = ["images", 'annot"s', "]}"]
    with json_arrays(path, names) as arrays:
        for name, element in elements:
            arrays[name].append(element)
    due = {name: [element for of, element in elements if of == name] for name in names}
    assert json.loads(path.read_text()) == due
    with path.open("rb") as file:
        assert list(iter_json_arrays(file, "x")) == [(name, each) for name in names for each in due[name]]
    assert [each.name for each in path.parent.iterdir()] == ["x.json"]
