"""Many files written at once: all of them stand at the end, and a failure is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from schemas.errors import TransientError
from store.location import RunLocation
from training.exports import many_files
from training.exports.many_files import ManyFiles


@pytest.fixture(params=["disk", "objects"])
def place(request, tmp_path):
    return RunLocation.open(str(tmp_path / "place") if request.param == "disk" else f"memory://many-{tmp_path}")


def test_all_files_stand_when_the_block_ends(place):
    with ManyFiles(place) as files:
        for number in range(100):
            files.write("ab"[number % 2], f"{number}.txt", b"x" * number)
    files.check()
    assert (files.num_files, files.size_bytes) == (100, sum(range(100)))
    assert sum(1 for folder in "ab" for _ in place.list(folder)) == 100
    assert place.read_bytes("b/99.txt") == b"x" * 99


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: place.delete("a/1.txt"),
        lambda place: place.replace("a/1.txt", b"other size"),
        lambda place: place.replace("a/3.txt", b"one more"),
    ],
    ids=["missing", "size", "more"],
)
def test_a_file_missing_changed_or_too_many_is_told(place, damage):
    with ManyFiles(place) as files:
        for number in range(3):
            files.write("a", f"{number}.txt", b"x")
    files.check()
    damage(place)
    with pytest.raises(TransientError, match="a does not hold exactly the files that were written"):
        files.check()


def failing(monkeypatch, name: str):
    real = RunLocation.replace

    def replace(self, path, data):
        if path.endswith(name):
            raise TransientError(f"cannot write {path}")
        real(self, path, data)

    monkeypatch.setattr(RunLocation, "replace", replace)


def write_all(place):
    with ManyFiles(place) as files:
        for number in range(80):
            files.write("a", f"{number}.txt", b"x")


@pytest.mark.parametrize("name", ["0.txt", "79.txt"], ids=["first", "last"])
def test_what_failed_in_the_background_is_raised(place, monkeypatch, name):
    failing(monkeypatch, name)
    with pytest.raises(TransientError, match=f"cannot write a/.*{name}"):
        write_all(place)


def test_after_an_error_of_the_block_nothing_else_is_begun(place, monkeypatch):
    go, begun = threading.Event(), []
    monkeypatch.setattr(RunLocation, "replace", lambda self, path, data: (begun.append(path), go.wait(10)))

    def interrupted():
        with ManyFiles(place) as files:
            for number in range(30):
                files.write("a", f"{number}.txt", b"x")
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) <= 30


def test_what_waits_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(many_files, "_MAX_PENDING_BYTES", 100)
    place, most = RunLocation.open(str(tmp_path)), 0
    with ManyFiles(place) as files:
        for number in range(50):
            files.write("a", f"{number}.txt", b"x" * (200 if number == 25 else 30))
            most = max(most, files._pending_bytes)
    files.check()
    # A file that is larger than the bound goes alone.
    assert most == 200
    assert len(list(Path(tmp_path, "a").iterdir())) == 50
