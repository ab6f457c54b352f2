from __future__ import annotations

import pyarrow as pa
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PartRecord
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks.shard_parts import verify_shard
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import part_path, receipt_path
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.parquet_files import parquet_bytes
from pseudoris.store.tables.shard_tables import table_bytes
from tests.store.builders import commit, start_run


@pytest.fixture
def run(location):
    """Return the location, a receipt and the plan of its shard."""
    header = start_run(location)
    return location, commit(location, header, 1)[0], read_shard_plan(location, header, 1)


def forged(location, receipt, table: str, data: bytes, rows: int | None = None):
    """Return the receipt as if it had been written for `data`, so that only what it says can give it away."""
    name = f"shard-00000001.g0-{sha256_hex(data)[:8]}.parquet"
    rows = receipt.parts[table].rows if rows is None else rows
    part = PartRecord(name=name, rows=rows, size_bytes=len(data), sha256=sha256_hex(data))
    location.put_part(part_path(table, part), data)
    return receipt.model_copy(update={"parts": {**receipt.parts, table: part}})


def whats(problems) -> list[str]:
    return [problem.what for problem in problems]


@pytest.mark.parametrize("quick", [True, False])
def test_a_committed_shard_is_whole(run, quick):
    location, receipt, planned = run
    assert verify_shard(location, receipt, planned, quick=quick) == []


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_byte_that_changed_anywhere_is_found(run, table):
    location, receipt, planned = run
    path = part_path(table, receipt.parts[table])
    original = location.read_bytes(path)
    for at in (0, len(original) // 3, len(original) - 1):
        data = bytearray(original)
        data[at] ^= 0x40
        location.replace(path, bytes(data))
        problems = verify_shard(location, receipt, planned, quick=False)
        assert whats(problems) == ["part_sha256"]
        assert "delete it and _receipts/shard-0000" in problems[0].detail


def test_the_remedy_for_a_damaged_part_mends_it(run):
    location, receipt, planned = run
    path = part_path("masks", receipt.parts["masks"])
    location.replace(path, location.read_bytes(path)[::-1])
    assert whats(verify_shard(location, receipt, planned, quick=False)) == ["part_sha256"]
    location.delete(path)
    location.delete(receipt_path(1, 0))
    (again,) = commit(location, start_run(location), 1)
    assert again == receipt
    assert verify_shard(location, again, planned, quick=False) == []


@pytest.mark.parametrize("quick", [True, False])
def test_a_torn_part_is_found(run, quick):
    location, receipt, planned = run
    path = part_path("masks", receipt.parts["masks"])
    location.replace(path, location.read_bytes(path)[:-100])
    problems = verify_shard(location, receipt, planned, quick=quick)
    assert whats(problems) == ["part_size"]
    assert path in problems[0].detail


@pytest.mark.parametrize("quick", [True, False])
def test_every_missing_part_is_found(run, quick):
    location, receipt, planned = run
    for table in ("images", "failures"):
        location.delete(part_path(table, receipt.parts[table]))
    assert whats(verify_shard(location, receipt, planned, quick=quick)) == ["part_missing", "part_missing"]


@pytest.mark.parametrize("quick", [True, False])
def test_another_number_of_rows_is_found(run, quick):
    location, receipt, planned = run
    data = table_bytes(read_table(location, "masks", receipts=[receipt]).slice(1))
    problems = verify_shard(location, forged(location, receipt, "masks", data), planned, quick=quick)
    assert whats(problems) == ["part_rows"]


@pytest.mark.parametrize("quick", [True, False])
def test_ids_that_are_not_the_plans_are_found(run, quick):
    location, receipt, planned = run
    images = read_table(location, "images", receipts=[receipt])
    data = table_bytes(images.take(list(reversed(range(images.num_rows)))))
    problems = verify_shard(location, forged(location, receipt, "images", data), planned, quick=quick)
    assert problems[0].what == "ids"
    assert verify_shard(location, receipt, planned[:-1], quick=quick)[0].what == "ids"


def test_a_table_in_place_of_another_is_found(run):
    location, receipt, planned = run
    data = location.read_bytes(part_path("failures", receipt.parts["failures"]))
    rows = receipt.parts["failures"].rows
    problems = verify_shard(location, forged(location, receipt, "masks", data, rows), planned, quick=True)
    assert whats(problems) == ["part_schema"]


def test_a_part_that_is_no_parquet_is_found(run):
    location, receipt, planned = run
    problems = verify_shard(location, forged(location, receipt, "masks", b"not a table"), planned, quick=False)
    assert whats(problems) == ["part_unreadable"]


def test_columns_of_other_types_are_found(run):
    location, receipt, planned = run
    masks = read_table(location, "masks", receipts=[receipt])
    fields = [pa.field(f.name, pa.string()) if f.name == "box_xyxy_px" else f for f in masks.schema]
    columns = [pa.array(["box"] * masks.num_rows) if f.name == "box_xyxy_px" else masks[f.name] for f in masks.schema]
    schema = pa.schema(fields, metadata=masks.schema.metadata)
    data = parquet_bytes([pa.table(columns, schema=schema)], schema)
    problems = verify_shard(location, forged(location, receipt, "masks", data), planned, quick=False)
    assert whats(problems) == ["part_unreadable"]


def test_what_the_rows_say_is_checked_unless_it_shall_be_quick(run):
    location, receipt, planned = run
    rows = read_table(location, "masks", receipts=[receipt]).to_pylist()
    rows[0]["area_px"] += 1
    data = table_bytes(pa.Table.from_pylist(rows, schema=SCHEMAS["masks"]))
    wrong = forged(location, receipt, "masks", data)
    assert whats(verify_shard(location, wrong, planned, quick=False)) == ["mask_area"]
    assert verify_shard(location, wrong, planned, quick=True) == []


def test_a_part_of_a_later_version_is_no_damage(run):
    location, receipt, planned = run
    masks = read_table(location, "masks", receipts=[receipt])
    schema = masks.schema.with_metadata({**masks.schema.metadata, b"pseudoris.version": b"9"})
    data = parquet_bytes([masks.replace_schema_metadata(schema.metadata)], schema)
    with pytest.raises(ConfigError, match="is of version 9"):
        verify_shard(location, forged(location, receipt, "masks", data), planned, quick=False)
