"""The destination of an export: foreign files stay, a killed export starts anew, numbered folders are emptied."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.interchange.exports.destination import (
    EXPORT_NAME,
    claim_destination,
    mark,
    unmark_empty,
)
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.interchange.exports.builders import stored

FOLDERS = ("anns/x", "masks")


def test_an_export_of_another_format_is_never_replaced(place):
    claim_destination(place, "refer", (), is_overwriting=False)
    mark(place, {"format": "refer", "state": "whole"})
    with pytest.raises(ConfigError, match="has an export of format refer"):
        claim_destination(place, "cris", FOLDERS, is_overwriting=True)


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"state": "whole"}'])
def test_a_record_that_says_nothing_is_told(place, record):
    place.replace(EXPORT_NAME, record)
    with pytest.raises(ConfigError, match=r"is not a record of an export\. Delete it"):
        claim_destination(place, "cris", FOLDERS, is_overwriting=True)


def test_what_a_killed_export_had_half_written_is_deleted(place):
    claim_destination(place, "cris", FOLDERS, is_overwriting=False)
    left = [place.temporary_path(path) for path in ("masks/1.png", "large.lmdb")]
    for path in left:
        path.write_bytes(b"half")
    claim_destination(place, "cris", FOLDERS, is_overwriting=False)
    assert not any(path.exists() for path in left)


@pytest.mark.slow
def test_uploads_that_a_killed_export_left_in_a_bucket_are_given_up(s3_server, s3_bucket):
    place = RunLocation.open(f"s3://{s3_bucket}/place", s3_server.endpoint_url)
    client = s3_server.client()
    for key in ("place/large.lmdb", "another/large.lmdb"):
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    claim_destination(place, "cris", FOLDERS, is_overwriting=False)
    # Nothing of an export stood there: what was begun may be anyone's.
    assert len(list(place.list_uploads())) == 1
    claim_destination(place, "cris", FOLDERS, is_overwriting=False)
    assert list(place.list_uploads()) == []
    assert [each["Key"] for each in client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]] == [
        "another/large.lmdb"
    ]


def folder(number: int) -> str:
    return f"folder-{number}"


def fill(location: RunLocation, numbers) -> None:
    for number in numbers:
        location.replace(f"{folder(number)}/a.png", b"x")


def begun(location: RunLocation) -> None:
    location.replace(EXPORT_NAME, b'{"format": "numbered", "state": "begun"}')


@pytest.mark.parametrize("path", ["a.json", "masks/a.png", "folder-7/a.png", None])
def test_the_record_of_a_failed_export_stays_while_any_of_its_files_does(place, path):
    begun(place)
    if path:
        place.replace(path, b"x")
    unmark_empty(place, FOLDERS, folder)
    assert place.exists(EXPORT_NAME) == (path is not None)


@given(last=st.integers(0, 150), gap=st.sets(st.integers(0, 63)))
@settings(max_examples=8)
def test_all_folders_are_emptied_whatever_gaps_there_are_near_the_end(last, gap, tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("numbered")))
    fill(location, (number for number in range(last + 1) if number == last or last - number not in gap))
    begun(location)
    claim_destination(location, "numbered", (), numbered=folder, is_overwriting=False)
    assert list(stored(location.root)) == [EXPORT_NAME]


def test_emptying_goes_from_the_last_to_the_first_so_that_it_may_be_killed(place, monkeypatch):
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
        claim_destination(place, "numbered", (), numbered=folder, is_overwriting=False)
    assert deleted[0] == "folder-199/a.png"
    monkeypatch.undo()
    claim_destination(place, "numbered", (), numbered=folder, is_overwriting=False)
    assert list(stored(place.root)) == [EXPORT_NAME]


def test_what_a_killed_export_had_begun_to_write_is_deleted_too(place):
    fill(place, [0, 1])
    begun(place)
    for number in (1, 2):
        path = place.temporary_path(f"{folder(number)}/a.png")
        path.write_bytes(b"half")
    claim_destination(place, "numbered", (), numbered=folder, is_overwriting=False)
    assert list(stored(place.root)) == [EXPORT_NAME]
