"""An export stands whole or is known not to: killed, repeated, replaced, or aimed at a place that holds other files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.files import s3_storage
from pseudoris.files.key_order import path_key
from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS, export_job, find_export
from pseudoris.interchange.exports.destination import EXPORT_NAME, claim_destination, earlier_record, unmark_empty
from pseudoris.interchange.exports.export_job import ExportJob
from pseudoris.interchange.exports.output_files import ManyFiles, json_arrays, new_file
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.store.runs.lock import LOCK_FOLDER, Claim, LockTimes, RunLock, TakenOverError, claim_to_bytes
from tests.builders.memory import TRIES, least_peak_bytes
from tests.interchange.exports.builders import PICTURES, build_run, export, jpeg, request_for, stored

FORMATS = sorted(EXPORTS.keys() - {"parquet"})
# `refer` holds its references in memory as its loaders do; the checks of `sam3` take more at a time than these small
# runs have.
STREAMED = sorted(EXPORTS.keys() - {"refer", "cris", "lmdb", "sam3", "parquet"})


def contents(root: Path | str) -> dict[str, bytes]:
    return {path: (Path(root) / path).read_bytes() for path in stored(root)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_export_is_no_whole_one_and_the_same_call_finishes_it(name, built_run, place, exported, monkeypatch):
    real = ExportJob.images

    def dying(self, *given, **named):
        for number, image in enumerate(real(self, *given, **named)):
            if number == 3:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(ExportJob, "images", dying)
    with pytest.raises(KeyboardInterrupt):
        export(name, built_run, place)
    assert b'"begun"' in place.read_bytes(EXPORT_NAME)
    assert not [path for path in stored(place.root) if path.endswith((".tmp", ".0")) or "/.tmp-" in f"/{path}"]
    monkeypatch.undo()
    export(name, built_run, place)
    assert contents(place.root) == contents(exported(name)[0])


HOLDING = """
import sys, time
from pseudoris.files.location import RunLocation
from pseudoris.store.runs.lock import RunLock
with RunLock.held(RunLocation.open(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_place_has_one_owner_and_a_dead_one_gives_way(built_run, place):
    with subprocess.Popen([sys.executable, "-c", HOLDING, place.root], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {owner.pid} on .* is working on"):
            export("hf", built_run, place)
        assert not place.exists(EXPORT_NAME)
        owner.kill()
    export("hf", built_run, place)
    assert not (Path(place.root) / LOCK_FOLDER).exists()


def test_of_two_exports_at_once_into_a_bucket_the_second_is_refused(
    built_run, s3_server, s3_bucket, exported, tmp_path, monkeypatch
):
    place = RunLocation.open(f"s3://{s3_bucket}/place", s3_server.endpoint_url)
    other, times = build_run(tmp_path / "other", PICTURES[:2]), LockTimes(heartbeat_s=0.1, poll_s=0.1)
    monkeypatch.setattr(export_job.RunLock, "held", partial(RunLock.held, times=times))
    told = []

    def show(done, total, /, stage=""):
        if not told:
            with pytest.raises(ConfigError) as refused:
                export("webdataset", other, place)
            told.append(str(refused.value))

    find_export("webdataset").write(request_for(built_run, place), show)
    assert re.match(rf"process {os.getpid()} on .* is working on s3://{s3_bucket}/place", *told)
    assert s3_server.objects(s3_bucket, "place/") == contents(exported("webdataset")[0])


@pytest.mark.parametrize(("name", "heartbeat_s"), [("coco", 0.01), *((name, 600) for name in sorted(EXPORTS))])
def test_an_owner_that_was_taken_over_stops_and_marks_nothing_as_whole(
    name, heartbeat_s, built_run, place, monkeypatch
):
    times, shown = LockTimes(heartbeat_s=heartbeat_s), []
    monkeypatch.setattr(export_job.RunLock, "held", partial(RunLock.held, times=times))

    def show(done, total, /, stage=""):
        if not shown:
            place.create_once(f"{LOCK_FOLDER}/claim-00000002.json", claim_to_bytes(Claim("other", 0, "node", 7)))
        shown.append(done)
        time.sleep(0.2 if heartbeat_s < 1 else 0)

    with pytest.raises(TakenOverError, match=r"process 7 on node took over .* while this one"):
        find_export(name).write(request_for(built_run, place), show)
    assert earlier_record(place)["state"] == "begun"
    assert len(shown) == 1 or heartbeat_s > 1


@pytest.mark.parametrize("name", EXPORTS)
def test_a_smaller_export_leaves_nothing_of_the_one_it_replaces(name, built_run, place, tmp_path):
    smaller = build_run(tmp_path / "smaller", PICTURES[:2])
    export(name, built_run, place)
    first = json.loads(place.read_bytes("croissant.json"))
    with pytest.raises(ConfigError, match=r"already has an export. .*--overwrite.*`pseudoris combine`"):
        export(name, smaller, place)
    export(name, smaller, place, is_overwriting=True)
    export(name, smaller, tmp_path / "fresh")
    assert contents(place.root) == contents(tmp_path / "fresh")
    # TensorFlow Datasets' CroissantBuilder keeps rows under this name, wherever the file is.
    assert json.loads(place.read_bytes("croissant.json"))["name"] != first["name"]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_place_with_other_files_is_refused_and_left_alone(name, exported, built_run, place):
    for path in ("croissant.json", max(stored(exported(name)[0]))):
        place.replace(path, b"mine")
        # A second try must not take them for its own either.
        for _ in range(2):
            with pytest.raises(ConfigError, match="Name an empty place"):
                export(name, built_run, place)
        assert contents(place.root) == {path: b"mine"}
        place.delete(path)
    # In a folder of theirs, even one that no file of the export goes into: the next plan would list both.
    place.replace("summer/a.jpg", b"mine")
    with pytest.raises(ConfigError, match=r"holds other files: summer\. Name an empty place"):
        export(name, built_run, place)
    place.delete("summer/a.jpg")


@pytest.mark.parametrize("name", ["coco", "sa1b", "pseudo-ris-csv"])
@pytest.mark.parametrize(
    "damaged",
    [
        lambda files: files[1:],
        lambda files: [replace(each, size_bytes=each.size_bytes + 1) for each in files],
        lambda files: [*files, *files[:1]],
    ],
    ids=["missing", "size", "more"],
)
def test_image_files_missing_changed_or_too_many_are_told(name, damaged, built_run, place, monkeypatch):
    real = RunLocation.list
    lock_is_sound = {LOCK_FOLDER: iter}
    monkeypatch.setattr(
        RunLocation, "list", lambda self, folder: iter(lock_is_sound.get(folder, damaged)(list(real(self, folder))))
    )
    with pytest.raises(TransientError, match="does not have exactly the files that were written"):
        export(name, built_run, place)


class Counted(list):
    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_how_often_the_receipts_are_read_does_not_follow_the_images(tmp_path):
    # A pass reads the receipts of all shards: one an image is the square of the run.

    def passes(num_images: int) -> int:
        pictures = tuple((path_key(f"{number:04d}.jpg"), jpeg(), (("the red half",),)) for number in range(num_images))
        run = build_run(tmp_path / f"run-{num_images}", pictures)
        request = request_for(run, tmp_path / f"export-{num_images}")
        receipts = Counted(request.run.receipts)
        find_export("coco").write(replace(request, run=replace(request.run, receipts=receipts)), lambda *_, **__: None)
        return receipts.passes

    assert passes(20) == passes(2) > 0


@pytest.mark.parametrize(
    ("name", "nums_images", "size_bytes"),
    [
        *(pytest.param(name, (50, 200), 30_000, marks=pytest.mark.long) for name in STREAMED),
        pytest.param("cris", (40, 70), 100_000, marks=pytest.mark.long),
        pytest.param("lmdb", (40, 70), 100_000, marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_follow_the_run(name, nums_images, size_bytes, tmp_path):
    # What follows the end of a JPEG is nobody's pixels.
    data = jpeg() + bytes(size_bytes)

    def peak_bytes(num_images: int) -> int:
        texts = (("the red half",), ("the blue half",))
        pictures = tuple((path_key(f"{number:04d}.jpg"), data, texts) for number in range(num_images))
        run = build_run(tmp_path / f"run-{num_images}", pictures, per_shard=5)
        places = [tmp_path / f"export-{num_images}-{number}" for number in range(TRIES)]
        # With its receipts, which every export is given as a list.
        requests = [request_for(run, place, target_bytes=300_000) for place in places]
        return least_peak_bytes(lambda number: find_export(name).write(requests[number], lambda *_, **__: None))

    peak_bytes(5)  # what is imported, and made once
    small, large = map(peak_bytes, nums_images)
    # A third of what their images are apart. How many files are on their way at once, a megabyte at most, is up to the
    # threads.
    assert large < small + (nums_images[1] - nums_images[0]) * size_bytes / 3


# What a destination may hold, and what is deleted of a killed export.

FOLDERS = ("anns/x", "masks")


def test_an_export_of_another_format_is_never_replaced(built_run, place):
    export("refer", built_run, place)
    with pytest.raises(ConfigError, match="has an export of format refer"):
        export("cris", built_run, place, is_overwriting=True)


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"state": "whole"}'])
def test_a_record_that_says_nothing_is_told(built_run, place, record):
    place.replace(EXPORT_NAME, record)
    with pytest.raises(ConfigError, match=r"is not a record of an export\. Delete it"):
        export("cris", built_run, place, is_overwriting=True)


def test_what_a_killed_export_had_half_written_is_deleted(place):
    fill(place, [0, 1])
    begun(place)
    for path in ("masks/1.png", "large.lmdb", f"{folder(1)}/a.png", f"{folder(2)}/a.png"):
        place.temporary_path(path).write_bytes(b"half")
    claim_destination(place, "numbered", FOLDERS, numbered=folder, is_overwriting=False)
    assert list(stored(place.root)) == [EXPORT_NAME]


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


# The files themselves: large ones whole or not at all, many at once within bounded memory, JSON arrays.


PART = 5 * 2**20


@pytest.mark.parametrize("root", ["{folder}/a place", "memory://files-{folder}"])
def test_a_block_that_fails_leaves_the_former_file_and_nothing_else(tmp_path, root):
    place = RunLocation.open(root.format(folder=tmp_path))
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
def test_a_large_file_goes_to_a_bucket_in_parts_and_is_never_in_memory_whole(s3_server, s3_bucket, monkeypatch):
    monkeypatch.setattr(s3_storage, "MULTIPART_BYTES", PART)
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
def test_any_elements_read_as_they_were_given(tmp_path_factory, elements):
    path = tmp_path_factory.mktemp("json") / "x.json"
    names = ["images", 'annot"s', "]}"]
    with json_arrays(path, names) as arrays:
        for name, element in elements:
            assert arrays[name].append(element) == element
    assert json.loads(path.read_text()) == {name: [each for of, each in elements if of == name] for name in names}
    assert [each.name for each in path.parent.iterdir()] == ["x.json"]
