from __future__ import annotations

import shutil
import time
from dataclasses import replace

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.store.checks.verification import Problem, verify_run
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.header import require_header, sealed
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.receipts import latest_receipts, part_path, receipt_path
from tests.store.builders import commit, make_entries, start_run, whats


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a complete run of five shards."""
    location = RunLocation.open(str(tmp_path_factory.mktemp("complete") / "run"))
    commit(location, start_run(location, make_entries(num_shards=5, per_shard=4)), 0, 1, 2, 3, 4)
    return location.root


@pytest.fixture
def run(complete, location):
    """A copy of that run."""
    shutil.copytree(complete, location.root)
    return location


@pytest.mark.parametrize("quick", [True, False])
def test_a_complete_run_accounts_for_every_planned_image(run, quick):
    report = verify_run(run, quick=quick)
    assert report.is_clean
    assert (report.num_images, report.num_accounted) == (20, 20)
    assert (report.annotated, report.empty, report.quarantined) == (10, 5, 5)
    assert (report.num_shards, report.num_checked) == (5, 5)


def test_shards_without_a_receipt_are_named_as_ranges(run):
    for shard in (1, 2, 4):
        run.delete(receipt_path(shard, 0))
    report = verify_run(run)
    assert not report.is_clean
    assert report.num_accounted == 8
    assert [problem.detail[:16] for problem in report.problems] == ["shards 1 to 2 ha", "shard 4 has no r"]


def test_a_receipt_without_a_plan_or_that_cannot_be_used_is_a_problem_and_not_the_end(run):
    stranger = next(latest_receipts(run)).model_copy(update={"shard": 9})
    run.replace(receipt_path(9, 0), stranger.model_dump_json().encode())
    report = verify_run(run)
    assert whats(report) == ["unplanned_receipt"]
    assert "shard 9 has a receipt, but is not in the plan" in report.problems[0].detail
    run.replace(receipt_path(2, 0), b"{}")
    report = verify_run(run)
    assert sorted(whats(report)) == ["receipt", "unplanned_receipt"]
    assert report.num_accounted == 16


def test_a_receipt_that_accounts_for_another_number_of_images_is_found(run):
    receipt = next(latest_receipts(run))
    counts = receipt.counts.model_copy(update={"images": 5, "empty": 2})
    wrong = receipt.model_copy(update={"counts": counts})
    run.replace(receipt_path(0, 0), sealed(wrong)[1])
    assert "the receipt accounts for 5 images, the plan has 4" in verify_run(run, sample=0).problems[0].detail


def test_an_id_that_is_not_its_keys_or_is_planned_twice_is_found(location):
    entries = make_entries(num_shards=2, per_shard=2)
    entries[1] = replace(entries[1], image_id="0" * 16)
    entries[3] = replace(entries[0], shard=1, position=1)
    start_run(location, entries)
    report = verify_run(location)
    assert "plan_id" in whats(report)
    assert f"image {entries[0].image_id} is planned 2 times" in [problem.detail for problem in report.problems]


def test_a_header_that_counts_otherwise_than_its_plan_is_found(location):
    header = start_run(location, make_entries(), num_images=13)
    commit(location, header, 0, 1, 2)
    assert whats(verify_run(location)) == ["plan_counts"]


@pytest.mark.parametrize(("sample", "checked"), [(0, 0), (2, 2), (5, 5), (99, 5), (None, 5)])
def test_a_sample_is_looked_into_and_the_rest_is_still_accounted_for(run, sample, checked):
    report = verify_run(run, sample=sample)
    assert report.is_clean
    assert (report.num_checked, report.num_accounted) == (checked, 20)


def test_shards_outside_promise_two_are_listed_by_reason_and_are_no_problem(location):
    header = start_run(location, make_entries(num_shards=6))
    line = "device_kind: 'a' in the run, 'b' now"
    commit(location, header, 0, 1, 2, provenance=Provenance(mixed=(line,)))
    commit(location, header, 3, provenance=Provenance(degraded={"captions.cache_bytes": 5}))
    commit(location, header, 4)
    commit(location, header, 5, provenance=Provenance(mixed=(line, "versions.x: '1' in the run, '2' now")))
    report = verify_run(location)
    assert report.is_clean
    assert [(each.what, each.detail, each.shards, each.num_shards) for each in report.outside] == [
        ("mixed", line, ((0, 2), (5, 5)), 4),
        ("degraded", "captions.cache_bytes: 5", ((3, 3),), 1),
        ("mixed", "versions.x: '1' in the run, '2' now", ((5, 5),), 1),
    ]


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_file_that_is_no_part_is_found_in_a_table_folder_a_hidden_one_too(run, has_ended):
    copied = next(latest_receipts(run)).parts["expressions"]
    run.replace(f"expressions/copy of {copied.name}", run.read_bytes(part_path("expressions", copied)))
    nine_digits = copied.name.replace("shard-0", "shard-00")
    run.replace(f"expressions/{nine_digits}", run.read_bytes(part_path("expressions", copied)))
    run.replace("images/notes.txt", b"mine")
    run.replace("images/.DS_Store", b"")
    run.replace("export/notes.txt", b"elsewhere")
    if has_ended:
        write_manifest(run)
    report = verify_run(run)
    assert whats(report) == ["stray_file"] * 4
    assert sorted(problem.detail.partition(" is an unexpected")[0] for problem in report.problems) == [
        f"expressions/copy of {copied.name}",
        f"expressions/{nine_digits}",
        "images/.DS_Store",
        "images/notes.txt",
    ]
    assert verify_run(run, quick=True).is_clean


@pytest.mark.parametrize("generation", [0, 1])
def test_a_part_that_no_receipt_names_is_a_problem_of_a_run_that_has_ended(run, generation):
    stray = f"masks/shard-00000002.g{generation}-00000000.parquet"
    run.replace(stray, b"of a killed writer")
    assert verify_run(run).is_clean
    write_manifest(run)
    with RunLock.held(run, on_wait=lambda _: None):
        assert verify_run(run).is_clean
    (problem,) = verify_run(run).problems
    assert (problem.what, problem.detail.partition(" is in no receipt")[0]) == ("stray_file", stray)


def test_parts_that_wait_for_gc_are_no_problem_of_a_run_that_goes_on(run):
    write_manifest(run)
    commit(run, require_header(run), 1, generation=1)
    assert verify_run(run).is_clean


@pytest.mark.parametrize("name", ["shard-00000009.g0-00000000.parquet", f"shard-{'9' * 30}.g0-00000000.parquet"])
def test_a_part_of_a_shard_that_is_not_planned_is_a_stray(run, name):
    write_manifest(run)
    run.replace(f"images/{name}", b"")
    assert whats(verify_run(run)) == ["stray_file"]


READERS = {
    "duckdb, *.parquet": lambda folder: duckdb.read_parquet(f"{folder}/*.parquet").count("*").fetchall()[0][0],
    "duckdb, **": lambda folder: duckdb.read_parquet(f"{folder}/**").count("*").fetchall()[0][0],
    "polars, *.parquet": lambda folder: pl.scan_parquet(f"{folder}/*.parquet").select(pl.len()).collect().item(),
    "polars, folder": lambda folder: pl.scan_parquet(f"{folder}/").select(pl.len()).collect().item(),
    "pyarrow": lambda folder: ds.dataset(folder).count_rows(),
}
# As macOS writes `._NAME` beside a file on a disk that is not its own.
APPLE_DOUBLE = b"\x00\x05\x16\x07" + bytes(78)
# Name in the table's folder, and its bytes; None is a copy of a part.
STRAYS = {
    **dict.fromkeys((".x.parquet", "x.parquet", ".tmp-mine.parquet", "X.PARQUET", "sub/x.parquet", ".sub/x.parquet")),
    **{"._shard-00000000.g0-00000000.parquet": APPLE_DOUBLE, ".empty.parquet": b""},
    **{".DS_Store": b"desktop", ".sub/notes.txt": b"notes"},
}


def counted(folder: str) -> dict[str, int | str]:
    """Return the rows that each reader counts, or the kind of its error."""
    found: dict[str, int | str] = {}
    for name, count in READERS.items():
        try:
            found[name] = count(folder)
        except Exception as error:  # noqa: BLE001 - each reader has errors of its own
            found[name] = type(error).__name__
    return found


def complete_run(location: RunLocation) -> tuple[bytes, int]:
    """Write a run that has ended. Return the bytes of a part of expressions, and the rows of all."""
    receipts = commit(location, start_run(location), 0, 1, 2)
    write_manifest(location)
    parts = [receipt.parts["expressions"] for receipt in receipts]
    return location.read_bytes(f"expressions/{parts[0].name}"), sum(part.rows for part in parts)


@pytest.fixture
def plain(tmp_path):
    """A location in a folder whose name holds no pattern: the readers would expand it."""
    return RunLocation.open(str(tmp_path.parent / "plain"))


def test_every_reader_counts_the_rows_of_a_run_that_verify_accepts(plain):
    _, rows = complete_run(plain)
    assert verify_run(plain).is_clean
    assert counted(plain.uri("expressions")) == dict.fromkeys(READERS, rows)


@pytest.mark.parametrize("name", STRAYS)
def test_verify_names_what_changes_a_readers_count_or_breaks_it(plain, name):
    part, rows = complete_run(plain)
    plain.replace(f"expressions/{name}", part if STRAYS[name] is None else STRAYS[name])
    assert set(counted(plain.uri("expressions")).values()) != {rows}
    (problem,) = verify_run(plain).problems
    assert problem.what == "stray_file"
    assert problem.detail.startswith(f"expressions/{name.partition('/')[0]} is ")
    assert problem.detail.endswith("Move it out")


JUNK = (
    *("_receipts/._shard-00000000.g0.json", "_receipts/notes", "_plan/x"),
    *("_manifest/.x.parquet", "_lock/x", "_attempts/x"),
    # A number written in another way is no name of ours: a copy of a receipt is no second commit.
    *("_receipts/shard-000000000.g0.json", "_receipts/shard-00000000.g00.json", "_receipts/shard-٠٠٠٠٠٠٠٠.g0.json"),
    *("_manifest/00001.parquet", "_lock/claim-000000000.json", "_attempts/shard-000000000.g0~a~b~c~d.begun"),
)


@pytest.mark.parametrize("path", [*JUNK, ".DS_Store", "notes.txt", "_plan/g0001/part-x.parquet", "_receipts/more/x"])
def test_junk_among_the_records_is_named_and_no_problem(disk, path):
    complete_run(disk)
    disk.replace("gallery/index.html", b"a folder beside the tables may be the user's")
    assert verify_run(disk).notices == ()
    disk.replace(path, b"junk")
    report = verify_run(disk)
    assert report.is_clean
    (notice,) = report.notices
    assert notice.startswith(f"{path.removesuffix('/x') if 'more' in path else path} is ")
    assert notice.endswith("Move it out")


@pytest.mark.parametrize("folder", ["expressions", "_receipts", "_plan/g0002"])
def test_a_temporary_file_is_named_once_its_writer_is_gone_and_gc_deletes_it(disk, folder):
    complete_run(disk)
    name = f"{folder}/.tmp-1-00112233445566aa"
    disk.replace(name, b"half")
    with RunLock.held(disk, on_wait=lambda _: None):
        assert verify_run(disk).notices == ()
    report = verify_run(disk)
    assert report.is_clean
    assert report.notices[0] == f"{name} is of a killed writer. gc deletes it when it is an hour old"
    assert name in run_gc(disk, now_s=time.time() + 3_660).deleted
    assert verify_run(disk).notices == ()


def test_repair_is_offered_only_for_what_it_can_bring_back(run):
    kinds = ("part_missing", "part_size", "part_sha256", "part_unreadable", "part_rows", "part_schema")
    found = [Problem(0, what, "it") for what in kinds]
    report = verify_run(
        run, check=lambda location, shards, quick: ([] if each.receipt.shard else found for each in shards)
    )
    assert [each.what for each in report.problems if "--repair" in each.detail] == list(kinds[:4])
