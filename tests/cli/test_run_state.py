"""`pseudoris status`, `verify` and `gc` as a user meets them, also of a run in a bucket."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace

import pyarrow.dataset as ds
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.schemas.shard import MasksLeft, Shard
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.commit import Provenance, commit_retry
from pseudoris.store.runs.garbage import remove_run
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.plan import read_shard_plan
from tests.builders.command import invoke, pseudoris_here
from tests.store.builders import (
    annotated,
    commit,
    commit_images,
    commit_made,
    empty,
    make_entries,
    parts,
    quarantined,
    start_run,
)


def shown(*words: object) -> str:
    return invoke("status", *words).output


@pytest.fixture
def whole(tmp_path):
    location = RunLocation.open(str(tmp_path))
    commit(location, start_run(location), 0, 1, 2)
    return tmp_path


def test_a_live_run_shows_its_driver_speed_what_is_left_and_the_bottleneck(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    with RunLock.held(location):
        commit(location, header, 0, provenance=Provenance(attempts={"fused": 2}, mixed=("device_kind: …",)))
        # Where a table breaks lines depends on the length of the folder's name.
        printed = " ".join(shown(str(tmp_path)).split())
    for words in (
        *("running", "is running", "images/s overall", "8 images, about", "caption: 57% of the time of all stages"),
        "repeated 1 attempts, after a stop, or the loss of a process",
        "all except 0 degraded and 1 mixed shards",
    ):
        assert words in printed


@pytest.mark.parametrize(("wide", "is_told"), [(4, False), (5, False), (6, True)])
def test_many_wide_decisions_of_captions_are_told_with_those_of_a_retry_and_from_a_manifest(tmp_path, wide, is_told):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location, make_entries(1))
    commit_images(location, header, quarantined, decisions=60, wide_decisions=1)
    images = tuple(map(empty, read_shard_plan(location, header, 0)))
    again = Shard(0, 1, images, decisions=40, wide_decisions=wide - 1)
    commit_made(location, header, again, write=commit_retry)
    told = (
        f"wide decisions {wide} % of the decisions needed the whole vocabulary: this costs time and changes no result"
    )
    for _ in range(2):
        assert (told in " ".join(shown(tmp_path).split())) == is_told
        write_manifest(location)


LEFT = MasksLeft(predicted_iou=5, stability=0, box_doubles=0, min_area=0, max_area=0, doubles=0, parts=0)


@pytest.mark.parametrize(("num_empty", "is_told"), [(1, False), (2, True)])
def test_many_images_without_a_mask_are_told_with_the_rule_that_took_the_last_also_of_a_retry_and_from_a_manifest(
    tmp_path, num_empty, is_told
):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location, make_entries(1, 20))

    def image(entry):
        if entry.position == 0:
            return quarantined(entry)
        return replace(empty(entry), masks_left=LEFT) if entry.position < num_empty else annotated(entry)

    commit_images(location, header, image)
    (first, *_) = read_shard_plan(location, header, 0)
    commit_made(location, header, Shard(0, 1, (replace(empty(first), masks_left=LEFT),)), write=commit_retry)
    told = (
        f"empty images {5 * num_empty} % of the images have no mask: stability took the last mask of {num_empty} of "
        f"{num_empty}. In a new run, lower masks.stability_score_thresh."
    )
    for _ in range(2):
        assert (told in " ".join(shown(tmp_path).split())) == is_told
        found = json.loads(shown(tmp_path, "--json"))
        assert (found["masks_left"], found["emptied"]) == ({"predicted_iou": 5 * num_empty}, {"stability": num_empty})
        write_manifest(location)


def test_json_has_every_figure(whole):
    found = json.loads(shown(whole, "--json"))
    assert (found["is_complete"], found["num_done"], found["reasons"]) == (True, 3, {"corrupt": 3})
    assert found["rates"]["overall"] > 0
    assert found["driver"]["state"] == "none"


def test_quarantined_images_are_listed_with_key_reason_and_message(whole):
    rows = [line.split("\t") for line in shown(whole, "--quarantined").splitlines()]
    assert [row[1] for row in rows] == ["corrupt"] * 3
    assert all(key.endswith("/3.png") and message for key, _, message in rows), rows


def test_a_narrow_terminal_shows_every_value(whole):
    rows = invoke("status", whole, columns=20).output.splitlines()
    assert all(len(row) <= 20 for row in rows)
    # The right half holds the values.
    assert {"3 of 3", "all", "shards"} <= {row[9:].strip() for row in rows}, rows


@pytest.mark.slow
def test_watch_ends_when_the_run_is_complete(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0)

    def finish() -> None:
        time.sleep(1.0)
        commit(location, header, 1, 2)

    worker = threading.Thread(target=finish)
    worker.start()
    lines = shown(str(tmp_path), "--watch", "--every", "0.5", "--json").splitlines()
    worker.join()
    assert [json.loads(line)["is_complete"] for line in (lines[0], lines[-1])] == [False, True]
    last = shown(str(tmp_path), "--watch")
    assert "complete" in last
    assert last.endswith("\n")


def test_ctrl_c_ends_a_watch_with_its_last_view_and_no_traceback(tmp_path, monkeypatch):
    location = RunLocation.open(str(tmp_path))
    commit(location, start_run(location), 0)
    monkeypatch.setattr("time.sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
    ended = pseudoris_here("status", str(tmp_path), "--watch", code=0)
    assert "1 of 3" in ended.stdout


def test_shards_outside_promise_two_are_listed_and_are_no_fault(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0, 1, provenance=Provenance(mixed=("device_kind: 'a' in the run, 'b' now",)))
    commit(location, header, 2, provenance=Provenance(degraded={"captions.cache_bytes": 7}))
    shown = invoke("verify", tmp_path)
    assert "not byte-reproducible" in shown.output
    assert "2: 0–1" in shown.output
    assert "device_kind: 'a' in the run, 'b' now" in shown.output
    assert "captions.cache_bytes: 7" in shown.output


def verify(*words, code=0):
    return invoke("verify", *words, columns=80, code=code).stdout


def test_the_root_digest_is_printed_in_one_piece_and_compared_and_the_report_may_be_json(whole):
    (root,) = re.findall(r"^root digest  ([0-9a-f]{64})$", verify(whole), re.MULTILINE)
    verify(whole, "--root", root)
    assert "1 problem" in verify(whole, "--root", "0" * 64, code=1)
    found = json.loads(verify(whole, "--json"))
    assert (found["is_clean"], found["problems"], found["root"]) == (True, [], root)
    (problem,) = json.loads(verify(whole, "--json", "--root", "0" * 64, code=1))["problems"]
    assert problem["what"] == "root"
    assert f"the root digest of the run is {root}, not {'0' * 64}" in problem["detail"]


@pytest.fixture
def location(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0, 1, 2)
    commit(location, header, 1, generation=1)
    location.replace("masks/shard-00000000.g0-00000000.parquet", b"lost")
    abandoned = tmp_path / "images" / ".tmp-1-00112233445566aa"
    abandoned.write_bytes(b"half")
    past_s = time.time() - 86_400
    os.utime(abandoned, (past_s, past_s))
    return location


def printed(location: RunLocation, *options: str) -> str:
    # A line breaks where the folder's name makes it.
    return " ".join(invoke("gc", location.root, *options).output.split())


def test_a_dry_run_lists_what_would_go_and_deletes_nothing(location):
    before = parts(location)
    shown = printed(location, "--dry-run")
    assert parts(location) == before
    assert "6 files would be deleted" in shown
    assert location.uri("masks/shard-00000000.g0-00000000.parquet") in shown
    assert "4 parts that a retry replaced" in shown


def test_what_is_left_is_what_receipts_name(location):
    assert "6 files deleted" in printed(location)
    assert len(parts(location)) == 12
    assert verify_run(location).is_clean
    assert "0 files deleted" in printed(location)


@pytest.mark.slow
def test_status_parts_gc_and_export_of_a_run_in_a_bucket(s3_server, s3_bucket, monkeypatch, tmp_path):
    def told(*words: str) -> str:
        return invoke(*words).output

    # The endpoint comes from the environment.
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    location = RunLocation.open(f"s3://{s3_bucket}/a run")
    header = start_run(location)
    lock = RunLock.acquire(location)
    commit(location, header, 0, 1)
    found = json.loads(told("status", location.root, "--json"))
    assert (found["num_done"], found["driver"]["state"]) == (2, "alive")
    # The times of the receipts are the store's own.
    assert found["rates"]["overall"] > 0
    commit(location, header, 2)
    commit(location, header, 1, generation=1)
    lock.release()
    assert "complete" in told("status", location.root, "--watch")

    assert len(told("parts", location.root, "--table", "all").splitlines()) == 12
    assert "4 files deleted" in told("gc", location.root)
    assert len(parts(location)) == 12

    for target in (str(tmp_path / "export"), f"s3://{s3_bucket}/export"):
        assert ": written and checked" in told("export", location.root, target)
    local = {path.name: path.read_bytes() for path in (tmp_path / "export" / "masks").iterdir()}
    remote = RunLocation.open(f"s3://{s3_bucket}/export")
    assert {file.name: remote.read_bytes(f"masks/{file.name}") for file in remote.list("masks")} == local
    assert ds.dataset(tmp_path / "export" / "images").count_rows() == 12

    remove_run(location)
    assert not any(
        list(location.list(folder)) for folder in ("", "_plan", "_plan/g0001", "_receipts", "_lock", *SCHEMAS)
    )
    assert remote.exists("_export.json")
