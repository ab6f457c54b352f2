"""Large files stand whole or not at all; many files are written and read at once, in order, within bounded memory."""

from __future__ import annotations

import io
import json
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.interchange.exports import output_files
from pseudoris.interchange.exports.output_files import ManyFiles, iter_json_arrays, json_arrays, new_file, read_ahead
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


@pytest.fixture(params=["disk", "objects"])
def destination(request, tmp_path):
    return RunLocation.open(str(tmp_path / "place") if request.param == "disk" else f"memory://many-{tmp_path}")


def test_all_files_stand_when_the_block_ends(destination):
    with ManyFiles(destination) as files:
        for number in range(100):
            files.write("ab"[number % 2], f"{number}.txt", b"x" * number)
    files.check()
    assert (files.num_files, files.size_bytes) == (100, sum(range(100)))
    assert sum(1 for folder in "ab" for _ in destination.list(folder)) == 100
    assert destination.read_bytes("b/99.txt") == b"x" * 99


@pytest.mark.parametrize(
    "damage",
    [
        lambda destination: destination.delete("a/1.txt"),
        lambda destination: destination.replace("a/1.txt", b"other size"),
        lambda destination: destination.replace("a/3.txt", b"one more"),
    ],
    ids=["missing", "size", "more"],
)
def test_a_file_missing_changed_or_too_many_is_told(destination, damage):
    with ManyFiles(destination) as files:
        for number in range(3):
            files.write("a", f"{number}.txt", b"x")
    files.check()
    damage(destination)
    with pytest.raises(TransientError, match="a does not have exactly the files that were written"):
        files.check()


def failing(monkeypatch, name: str):
    real = RunLocation.replace

    def replace(self, path, data):
        if path.endswith(name):
            raise TransientError(f"cannot write {path}")
        real(self, path, data)

    monkeypatch.setattr(RunLocation, "replace", replace)


def write_all(destination):
    with ManyFiles(destination) as files:
        for number in range(80):
            files.write("a", f"{number}.txt", b"x")


@pytest.mark.parametrize("name", ["0.txt", "79.txt"], ids=["first", "last"])
def test_what_failed_in_the_background_is_raised(destination, monkeypatch, name):
    failing(monkeypatch, name)
    with pytest.raises(TransientError, match=f"cannot write a/.*{name}"):
        write_all(destination)


def test_what_waits_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "_MAX_PENDING_BYTES", 100)
    destination, most = RunLocation.open(str(tmp_path)), 0
    with ManyFiles(destination) as files:
        for number in range(50):
            files.write("a", f"{number}.txt", b"x" * (200 if number == 25 else 30))
            most = max(most, files._pending_bytes)
    files.check()
    # A file that is larger than the bound goes alone.
    assert most == 200
    assert len(list(Path(tmp_path, "a").iterdir())) == 50


@pytest.fixture
def location(tmp_path):
    location = RunLocation.open(str(tmp_path))
    for number in range(50):
        location.replace(f"{number}.txt", str(number).encode())
    return location


def paths(count: int) -> list[str]:
    return [f"{number}.txt" for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 50])
def test_every_file_comes_once_in_order(location, count):
    assert list(read_ahead(location, paths(count))) == [(path, path[:-4].encode()) for path in paths(count)]


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


def test_trap_a_numpy_number_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="int64"), json_arrays(tmp_path / "x.json", ["a"]) as arrays:
        arrays["a"].append({"id": np.int64(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": [\n{"id":1}\n', "ends before its last bracket"),
        (b'{"a": [\n{"id":1', "is not readable JSON"),
        (b"", "ends before its last bracket"),
    ],
)
def test_a_file_cut_short_is_told(text, message):
    with pytest.raises(TransientError, match=f"x.json {message}"):
        list(iter_json_arrays(io.BytesIO(text), "x.json"))
