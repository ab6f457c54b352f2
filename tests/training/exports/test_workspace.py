"""The place of an export: nobody's files are mixed with its own or deleted, and a killed one is started anew."""

from __future__ import annotations

import json

import pytest

from schemas.errors import ConfigError
from store.location import RunLocation
from tests.training.exports.builders import request_for
from training.exports.workspace import EXPORT_NAME, finish_place, take_place

FOLDERS = ("anns/x", "masks")


@pytest.fixture
def request_at(built_run, place):
    return lambda **options: request_for(built_run, place, **options)


def test_an_empty_place_is_taken_and_marked_whole_at_the_end(request_at, place):
    take_place(request_at(), "cris", FOLDERS)
    assert json.loads(place.read_bytes(EXPORT_NAME)) == {"format": "cris", "state": "begun"}
    finish_place(request_at(), "cris", {"rows": {"train": 3}})
    tree = json.loads(place.read_bytes(EXPORT_NAME))
    assert (tree["format"], tree["state"], tree["rows"]) == ("cris", "whole", {"train": 3})


@pytest.mark.parametrize("path", ["notes.txt", "masks/mine.png", "anns/x/train.json"])
def test_a_strangers_file_is_named_and_left_alone(request_at, place, path):
    place.replace(path, b"mine")
    for is_overwriting in (False, True):
        with pytest.raises(ConfigError, match=f"{path} is no file of an export"):
            take_place(request_at(is_overwriting=is_overwriting), "cris", FOLDERS)
    assert place.read_bytes(path) == b"mine"
    assert not place.exists(EXPORT_NAME)


def test_a_killed_export_is_emptied_and_begun_anew(request_at, place):
    take_place(request_at(), "cris", FOLDERS)
    place.replace("masks/1.png", b"left")
    take_place(request_at(), "cris", FOLDERS)
    assert not place.exists("masks/1.png")


def test_a_whole_export_is_replaced_only_when_asked(request_at, place):
    take_place(request_at(), "cris", FOLDERS)
    place.replace("masks/1.png", b"whole")
    finish_place(request_at(), "cris", {})
    with pytest.raises(ConfigError, match="holds an export already: name another place, or give --overwrite"):
        take_place(request_at(), "cris", FOLDERS)
    assert place.read_bytes("masks/1.png") == b"whole"
    take_place(request_at(is_overwriting=True), "cris", FOLDERS)
    assert not place.exists("masks/1.png")


def test_an_export_of_another_format_is_never_replaced(request_at, place):
    take_place(request_at(), "refer", ())
    finish_place(request_at(), "refer", {})
    with pytest.raises(ConfigError, match="holds an export of format refer"):
        take_place(request_at(is_overwriting=True), "cris", FOLDERS)


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"state": "whole"}'])
def test_a_record_that_says_nothing_is_told(request_at, place, record):
    place.replace(EXPORT_NAME, record)
    with pytest.raises(ConfigError, match="is no record of an export: delete it"):
        take_place(request_at(is_overwriting=True), "cris", FOLDERS)


def test_what_a_killed_export_had_half_written_is_deleted(request_at, place):
    take_place(request_at(), "cris", FOLDERS)
    left = [place.temporary_path(path) for path in ("masks/1.png", "large.lmdb")]
    for path in left:
        path.write_bytes(b"half")
    take_place(request_at(), "cris", FOLDERS)
    assert not any(path.exists() for path in left)


def test_uploads_that_a_killed_export_left_in_a_bucket_are_given_up(built_run, s3_server, s3_bucket):
    place = RunLocation.open(f"s3://{s3_bucket}/place", s3_server.endpoint_url)
    client = s3_server.client()
    for key in ("place/large.lmdb", "another/large.lmdb"):
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    take_place(request_for(built_run, place), "cris", FOLDERS)
    # Nothing of an export stood there: what was begun may be anyone's.
    assert len(list(place.list_uploads())) == 1
    take_place(request_for(built_run, place), "cris", FOLDERS)
    assert list(place.list_uploads()) == []
    assert [each["Key"] for each in client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]] == [
        "another/large.lmdb"
    ]
