"""What `verify` accepts in a table folder is what DuckDB, polars and pyarrow count there; it names all else."""

from __future__ import annotations

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import write_manifest
from tests.store.builders import commit, start_run

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
    ".x.parquet": None,
    "x.parquet": None,
    "._shard-00000000.g0-00000000.parquet": APPLE_DOUBLE,
    ".tmp-mine.parquet": None,
    ".empty.parquet": b"",
    ".DS_Store": b"desktop",
    "X.PARQUET": None,
    "sub/x.parquet": None,
    ".sub/x.parquet": None,
    ".sub/notes.txt": b"notes",
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
    "_receipts/._shard-00000000.g0.json",
    "_receipts/notes",
    "_plan/x",
    "_manifest/.x.parquet",
    "_lock/x",
    "_attempts/x",
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
    assert name in run_gc(disk, temporary_age_s=-60).deleted
    assert verify_run(disk).notices == ()
