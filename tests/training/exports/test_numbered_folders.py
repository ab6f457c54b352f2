"""Numbered folders are emptied to the last one, wherever a killed export left gaps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from store.location import RunLocation
from tests.training.exports.builders import request_for, stored
from training.exports.numbered_folders import take_numbered_place
from training.exports.workspace import EXPORT_NAME


def folder(number: int) -> str:
    return f"folder-{number}"


def fill(location: RunLocation, numbers) -> None:
    for number in numbers:
        location.replace(f"{folder(number)}/a.png", b"x")


def begun(location: RunLocation) -> None:
    location.replace(EXPORT_NAME, b'{"format": "numbered", "state": "begun"}')


@given(last=st.integers(0, 150), gap=st.sets(st.integers(0, 63)))
@settings(max_examples=8)
def test_all_folders_are_emptied_whatever_gaps_there_are_near_the_end(last, gap, built_run, tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("numbered")))
    fill(location, (number for number in range(last + 1) if number == last or last - number not in gap))
    begun(location)
    take_numbered_place(request_for(built_run, location), "numbered", (), folder)
    assert list(stored(location.root)) == [EXPORT_NAME]


def test_an_empty_place_is_taken(built_run, place):
    take_numbered_place(request_for(built_run, place), "numbered", ("other",), folder)
    assert b"begun" in place.read_bytes(EXPORT_NAME)


def test_files_of_no_export_are_left_alone(built_run, place):
    fill(place, [5])
    for _ in range(2):
        with pytest.raises(ConfigError, match="folder-5 holds files of no export"):
            take_numbered_place(request_for(built_run, place), "numbered", (), folder)
    assert list(stored(place.root)) == ["folder-5/a.png"]


def test_emptying_goes_from_the_last_to_the_first_so_that_it_may_be_killed(built_run, place, monkeypatch):
    fill(place, range(200))
    begun(place)
    real, deleted = RunLocation.delete, []

    def dying(self, path):
        if len(deleted) == 150:
            raise KeyboardInterrupt
        deleted.append(path)
        real(self, path)

    monkeypatch.setattr(RunLocation, "delete", dying)
    with pytest.raises(KeyboardInterrupt):
        take_numbered_place(request_for(built_run, place), "numbered", (), folder)
    assert deleted[0] == "folder-199/a.png"
    monkeypatch.undo()
    take_numbered_place(request_for(built_run, place), "numbered", (), folder)
    assert list(stored(place.root)) == [EXPORT_NAME]


def test_what_a_killed_export_had_begun_to_write_is_deleted_too(built_run, place):
    fill(place, [0, 1])
    begun(place)
    for number in (1, 2):
        path = place.temporary_path(f"{folder(number)}/a.png")
        path.write_bytes(b"half")
    take_numbered_place(request_for(built_run, place), "numbered", (), folder)
    assert list(stored(place.root)) == [EXPORT_NAME]
