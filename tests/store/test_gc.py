from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from schemas.tables import SCHEMAS
from store.commit import part_path
from store.gc import TEMPORARY_AGE_S, plan_gc, run_gc
from store.verify import verify_run
from tests.store.builders import commit, start_run

LOST = "shard-00000001.g0-00000000.parquet"


@pytest.fixture
def run(location):
    """Return the location, its header, and the receipts of shards 0 and 1 of three."""
    header = start_run(location)
    return location, header, commit(location, header, 0, 1)


def test_a_part_that_lost_is_deleted_and_the_named_one_stays(run):
    location, _, receipts = run
    location.replace(f"masks/{LOST}", b"12345")
    report = run_gc(location)
    assert report.deleted == (f"masks/{LOST}",)
    assert report.freed_bytes == 5
    assert all(location.exists(part_path(t, part)) for each in receipts for t, part in each.parts.items())


def test_a_superseded_generation_goes_and_its_receipt_stays(run):
    location, header, receipts = run
    new = commit(location, header, 1, generation=1)[0]
    report = run_gc(location)
    assert sorted(report.deleted) == sorted(part_path(t, part) for t, part in receipts[1].parts.items())
    assert all(location.exists(part_path(table, part)) for table, part in new.parts.items())
    assert location.exists("_receipts/shard-00000001.g0.json")


@pytest.mark.parametrize(
    "name",
    [
        "shard-00000002.g0-00000000.parquet",  # a shard in the making
        "shard-00000001.g1-00000000.parquet",  # a generation in the making
        "notes.parquet",
        "shard-00000001.g0-00000000.json",
    ],
)
def test_what_may_be_in_the_making_or_is_not_ours_is_left_alone(run, name):
    location, _, _ = run
    location.replace(f"masks/{name}", b"x")
    assert run_gc(location).deleted == ()
    assert location.exists(f"masks/{name}")


def test_a_named_part_is_never_deleted_even_when_it_is_the_only_witness(run):
    location, _, receipts = run
    named = part_path("masks", receipts[1].parts["masks"])
    location.replace(f"masks/{LOST}", location.read_bytes(named))
    location.delete(named)
    run_gc(location)
    assert location.exists(f"masks/{LOST}")


def test_after_gc_the_folders_hold_exactly_what_the_receipts_name(run):
    location, header, _ = run
    commit(location, header, 2)
    final = commit(location, header, 0, 1, 2, generation=1)
    for table in SCHEMAS:
        location.replace(f"{table}/{LOST}", b"x")
    run_gc(location)
    for table in SCHEMAS:
        assert {file.name for file in location.list(table)} == {each.parts[table].name for each in final}
    assert verify_run(location).is_clean


def test_gc_on_a_clean_run_reads_no_receipt_and_deletes_nothing(run, monkeypatch):
    location, _, _ = run
    monkeypatch.setattr("store.receipts.read_receipt", lambda *_: pytest.fail("a receipt was read"))
    assert run_gc(location).deleted == ()


def test_old_leavings_of_killed_writers_go_and_young_ones_stay(disk):
    commit(disk, start_run(disk), 0)
    old, young = Path(disk.uri("masks/.tmp-1-aa")), Path(disk.uri("_receipts/.tmp-2-bb"))
    for path in (old, young):
        path.write_bytes(b"half")
    past_s = time.time() - TEMPORARY_AGE_S - 10
    os.utime(old, (past_s, past_s))
    assert run_gc(disk).deleted == ("masks/.tmp-1-aa",)
    assert young.exists()
    assert run_gc(disk, temporary_age_s=0, now_s=time.time() + 1).deleted == ("_receipts/.tmp-2-bb",)


def test_the_decision_is_a_pure_function_of_names_and_receipts(run):
    _, _, receipts = run
    named = receipts[1].parts["masks"].name
    parts = {"masks": [named, LOST, "shard-00000005.g0-11111111.parquet"]}
    assert plan_gc(parts, {1: receipts[1]}) == [f"masks/{LOST}"]
    assert plan_gc(parts, {}) == []
