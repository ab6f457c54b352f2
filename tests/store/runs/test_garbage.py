"""What gc and the removal of a run delete, and what they leave."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.attempts import begin_attempt
from pseudoris.store.runs.garbage import TEMPORARY_AGE_S, remove_run, run_gc
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.receipts import part_path, read_receipt, receipt_path
from tests.builders.seals import edit_sealed
from tests.store.builders import commit, make_entries, parts, start_run

LOST = "shard-00000001.g0-00000000.parquet"


@pytest.fixture
def run(location):
    """A run whose shards 0 and 1 of three are committed."""
    commit(location, start_run(location), 0, 1)
    return location


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
    run.replace(f"masks/{name}", b"x")
    assert run_gc(run).deleted == ()
    assert run.exists(f"masks/{name}")


def test_records_of_attempts_go_with_the_commit_and_those_in_flight_stay(run):
    done, _ = begin_attempt(run, 1, 0, pool="fused", session_nonce="one", node="n")
    flying, _ = begin_attempt(run, 2, 0, pool="fused", session_nonce="one", node="n")
    assert run_gc(run).abandoned == (done.path("begun"),)
    assert run.exists(flying.path("begun"))
    assert not run.exists(done.path("begun"))


def aged(path: Path, modified_s: float) -> Path:
    path.write_bytes(b"half")
    os.utime(path, (modified_s, modified_s))
    return path


def test_what_a_start_left_that_was_killed_while_it_probed_goes_once_it_is_old(disk, monkeypatch):
    commit(disk, start_run(disk), 0)
    with monkeypatch.context() as killed:
        killed.setattr(RunLocation, "delete", lambda *_: None)
        disk.probe()
        disk.probe()
    old, young = sorted(Path(disk.root).glob("_probe-*"))
    aged(old, time.time() - TEMPORARY_AGE_S - 10)
    others = [aged(Path(disk.root, name), 0) for name in ("_probe-mine", "_probe-00112233445566aa.txt")]
    assert run_gc(disk, is_dry=True).deleted == (old.name,)
    assert run_gc(disk).deleted == (old.name,)
    assert sorted(Path(disk.root).glob("_probe-*")) == sorted([young, *others])


@pytest.mark.parametrize("ahead_s", [-10 * TEMPORARY_AGE_S, 10 * TEMPORARY_AGE_S], ids=["behind", "ahead"])
def test_age_is_told_by_the_storages_clock_and_not_by_this_machines(disk, monkeypatch, ahead_s):
    commit(disk, start_run(disk), 0)
    now_s = time.time()
    old = aged(Path(disk.root, ".tmp-1-00112233445566aa"), now_s - TEMPORARY_AGE_S - 60)
    young = aged(Path(disk.root, ".tmp-2-00112233445566bb"), now_s - TEMPORARY_AGE_S + 600)
    before = {path.name for path in Path(disk.root).iterdir()}
    monkeypatch.setattr(time, "time", lambda: now_s + ahead_s)
    assert run_gc(disk).deleted == (old.name,)
    assert {path.name for path in Path(disk.root).iterdir()} == before - {old.name}
    assert young.exists()


def test_a_dry_run_names_by_kind_what_a_real_one_deletes(run):
    (new,) = commit(run, require_header(run), 1, generation=1)
    run.replace("masks/shard-00000000.g0-00000000.parquet", b"12345")
    dry = run_gc(run, is_dry=True)
    assert dry.lost == ("masks/shard-00000000.g0-00000000.parquet",)
    assert sorted(dry.superseded) == sorted(part_path(*each) for each in read_receipt(run, 1, 0).parts.items())
    assert all(run.exists(path) for path in dry.deleted)
    assert run_gc(run) == dry
    assert not any(run.exists(path) for path in dry.deleted)
    assert all(run.exists(part_path(table, part)) for table, part in new.parts.items())
    assert run.exists("_receipts/shard-00000001.g0.json")


@pytest.mark.parametrize("name", ["../../elsewhere/x.parquet", "/etc/passwd", "..", ".hidden", "a/b/c", "a\nb", ""])
def test_a_receipt_that_names_a_part_outside_the_run_is_refused_and_nothing_is_deleted(run, name):
    run.replace(f"masks/{LOST}", b"12345")
    edit_sealed(run, receipt_path(1, 0), lambda tree: tree["parts"]["masks"].update(name=name))
    before = parts(run, "_plan/g0001", "_receipts")
    with pytest.raises(ConfigError, match="is not a valid receipt"):
        run_gc(run)
    assert parts(run, "_plan/g0001", "_receipts") == before


def test_a_receipt_whose_named_part_is_not_there_costs_no_other_part(run):
    for name in (LOST, "shard-00000001.g0-11111111.parquet"):
        run.replace(f"masks/{name}", b"12345")
    run.delete(part_path("masks", read_receipt(run, 1, 0).parts["masks"]))
    assert run_gc(run).deleted == ()


def test_a_header_that_names_a_plan_outside_the_run_is_refused(run):
    elsewhere = "../../plan/part-00000000-00000000.parquet"
    edit_sealed(run, HEADER_NAME, lambda tree: tree["plan_parts"][0].update(name=elsewhere))
    with pytest.raises(ConfigError, match="is not a valid header, see plan_parts"):
        run_gc(run)


def test_links_folders_and_strange_names_are_not_ours_to_delete(disk, tmp_path):
    commit(disk, start_run(disk), 0)
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    masks = Path(disk.uri("masks"))
    (masks / ".tmp-1-00112233445566aa").symlink_to(outside)
    (masks / ".tmp-1-00112233445566bb").mkdir()
    (masks / ".tmp-mine").write_bytes(b"notes")
    (masks / "shard-00000000.g0-00000000.parquet\n").write_bytes(b"notes")
    before = sorted(path.name for path in masks.iterdir())
    assert run_gc(disk, now_s=time.time() + 3_610).deleted == ()
    assert sorted(path.name for path in masks.iterdir()) == before
    assert outside.read_bytes() == b"precious"


def test_nothing_is_left_of_a_removed_run_and_what_lies_beside_it_stays(location):
    commit(location, start_run(location), 0, 1)
    write_manifest(location)
    with RunLock.held(location):
        pass
    folders = ("", "_plan", "_plan/g0001", "_receipts", "_manifest", "_lock", "images", "masks")
    assert any(list(location.list(folder)) for folder in folders)
    remove_run(location)
    assert not any(list(location.list(folder)) for folder in folders)
    remove_run(location)
    if "://" not in location.root:
        assert not Path(location.root).exists()
        assert Path(location.root).parent.exists()


@pytest.mark.slow
def test_gc_beside_living_writers_never_takes_a_part_that_counts(disk):
    """Writers of two minds race for each shard and then write generations, while gc runs without a pause."""
    num_shards = 12
    header = start_run(disk, make_entries(num_shards=num_shards))
    is_written = threading.Event()
    rounds = []

    def write(embed_images: bool) -> None:
        # Other settings, other bytes: one of the two loses each shard, and its parts are garbage at once.
        for generation in range(3):
            commit(disk, header, *range(num_shards), generation=generation, embed_images=embed_images)

    def collect() -> None:
        while not is_written.is_set():
            rounds.append(len(run_gc(disk).deleted))

    with ThreadPoolExecutor(3) as pool:
        collecting = pool.submit(collect)
        for writing in [pool.submit(write, embed_images) for embed_images in (True, False)]:
            writing.result()
        is_written.set()
        collecting.result()
    run_gc(disk)
    assert sum(rounds) > num_shards
    report = verify_run(disk)
    assert report.is_clean, report.problems[:5]
    for table in SCHEMAS:
        assert len(list(disk.list(table))) == num_shards
