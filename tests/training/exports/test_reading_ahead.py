"""Files read back in their order, several at once, never many."""

from __future__ import annotations

import threading

import pytest

from schemas.errors import TransientError
from store.location import RunLocation
from training.exports.reading_ahead import read_ahead


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


def test_no_more_is_read_than_is_about_to_be_asked_for(location):
    asked = []

    def counted():
        for path in paths(50):
            asked.append(path)
            yield path

    reading = read_ahead(location, counted())
    next(reading)
    assert len(asked) == 16
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("export-check")]


def test_a_missing_file_is_named(location):
    with pytest.raises(TransientError, match=r"gone\.txt does not read back as it was written: it is missing"):
        list(read_ahead(location, [*paths(3), "gone.txt", *paths(3)]))
