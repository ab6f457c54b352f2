"""The merged tables: the same rows in few files, the same bytes each time, and never a half one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import find_export, merged_parquet
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.tables.open_run import OpenRun
from tests.interchange.exports.builders import BuiltRun, build_run, jpeg, request_for
from tests.store.builders import commit, make_entries, parts, start_run

NUM_SHARDS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that its tests only read."""
    location = RunLocation.open(str(tmp_path_factory.mktemp("merged") / "run"))
    header = start_run(location, make_entries(num_shards=NUM_SHARDS))
    commit(location, header, *range(NUM_SHARDS))
    commit(location, header, 3, generation=1)
    return BuiltRun(location, header, ())


@pytest.fixture(params=["disk", "objects"])
def destination(request, tmp_path):
    return RunLocation.open(str(tmp_path / "export é") if request.param == "disk" else f"memory://export-{tmp_path}")


def write(run, destination, *, target_bytes=2**28):
    seen = []
    request = request_for(run, destination, target_bytes=target_bytes)
    return find_export("parquet").write(request, lambda *told: seen.append(told)), seen


def contents(destination: RunLocation) -> dict[str, bytes]:
    return dict(sorted(parts(destination).items()))


def merged(destination: RunLocation, table: str) -> list[pa.Table]:
    files = [data for path, data in contents(destination).items() if path.startswith(f"{table}/")]
    return [pq.read_table(pa.BufferReader(data)) for data in files]


def test_the_rows_are_those_of_the_latest_generations_in_plan_order(run, destination):
    report, seen = write(run, destination)
    for table in SCHEMAS:
        (found,) = merged(destination, table)
        assert found.equals(OpenRun.at(run.location).table(table))
        assert found.schema.equals(SCHEMAS[table], check_metadata=True)
        assert report.rows[table] == found.num_rows
    assert report.files == dict.fromkeys(SCHEMAS, 1)
    assert report.size_bytes == sum(map(len, contents(destination).values()))
    assert (sum(report.rows.values()),) * 2 in seen
    described = json.loads(destination.read_bytes("_export.json"))
    assert (described["num_images"], described["num_shards_retried"]) == (4 * NUM_SHARDS, 1)


def test_files_end_at_the_target_size(run, destination, monkeypatch):
    monkeypatch.setattr(merged_parquet, "ROW_GROUP_SIZE", 7)
    report, _ = write(run, destination, target_bytes=4_000)
    assert report.files["expressions"] > 2
    assert len(merged(destination, "expressions")) == report.files["expressions"]
    rows = [row for table in merged(destination, "expressions") for row in table.to_pylist()]
    assert rows == OpenRun.at(run.location).table("expressions").to_pylist()
    *full, _ = [data for path, data in contents(destination).items() if path.startswith("expressions")]
    assert all(len(data) > 4_000 for data in full)


def test_a_killed_export_leaves_no_half_file_and_the_same_call_finishes_it(run, tmp_path, monkeypatch):
    whole, place = RunLocation.open(str(tmp_path / "whole")), RunLocation.open(str(tmp_path / "place"))
    monkeypatch.setattr(merged_parquet, "ROW_GROUP_SIZE", 7)
    write(run, whole, target_bytes=4_000)
    written = []

    class Dying(pq.ParquetWriter):
        def write_table(self, *arguments, **options):
            written.append(1)
            if len(written) == 12:
                raise KeyboardInterrupt
            super().write_table(*arguments, **options)

    monkeypatch.setattr("pseudoris.files.parquet_files.pq.ParquetWriter", Dying)
    with pytest.raises(KeyboardInterrupt):
        write(run, place, target_bytes=4_000)
    left = contents(place)
    assert left
    assert json.loads(place.read_bytes("_export.json"))["state"] == "begun"
    assert left == {path: contents(whole)[path] for path in left}
    assert not list(Path(place.root).rglob(".tmp-*"))
    monkeypatch.undo()
    monkeypatch.setattr(merged_parquet, "ROW_GROUP_SIZE", 7)
    write(run, place, target_bytes=4_000)
    assert contents(place) == contents(whole)


def test_a_run_without_a_mask_still_has_a_file_of_each_table(tmp_path, destination):
    location = RunLocation.open(str(tmp_path / "run"))
    header = start_run(location, make_entries(num_shards=1, per_shard=1))
    commit(location, header, 0)
    report, _ = write(BuiltRun(location, header, ()), destination)
    assert report.rows["failures"] == 0
    assert merged(destination, "failures")[0].schema.equals(SCHEMAS["failures"])


@pytest.mark.slow
def test_memory_follows_the_row_group_and_not_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(merged_parquet, "ROW_GROUP_SIZE", 30)

    def peak_bytes(num_shards: int) -> int:
        location = RunLocation.open(str(tmp_path / f"run-{num_shards}"))
        header = start_run(location, make_entries(num_shards=num_shards))
        commit(location, header, *range(num_shards))
        usual = pa.default_memory_pool()
        pa.set_memory_pool(counted := pa.proxy_memory_pool(usual))
        try:
            write(BuiltRun(location, header, ()), tmp_path / f"export-{num_shards}", target_bytes=50_000)
        finally:
            pa.set_memory_pool(usual)
        return int(counted.max_memory())

    # Their rows are 250 kB apart.
    assert peak_bytes(100) < peak_bytes(20) + 50_000


@pytest.mark.slow
def test_a_row_group_is_bounded_in_bytes_too(tmp_path):
    """Two images of 33 MiB are more than the 64 MiB of a row group."""
    pictures = tuple((f"{number}.jpg", jpeg() + bytes(33 * 2**20), (("a half",),)) for number in range(2))
    write(build_run(tmp_path / "run", pictures, per_shard=1), tmp_path / "export")
    metadata = pq.read_metadata(tmp_path / "export/images/part-00000.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1, 3]
