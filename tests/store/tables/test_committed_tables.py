from __future__ import annotations

import pyarrow as pa
import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.tables import SCHEMAS, TABLES_VERSION
from pseudoris.store.runs.receipts import part_path
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.parquet_files import parquet_bytes
from pseudoris.store.tables.shard_tables import shard_tables
from tests.store.builders import commit, make_entries, make_shard, start_run


@pytest.fixture
def committed(location):
    commit(location, start_run(location), 0, 2)
    return location


def rewrite(location, receipt, table: str, schema: pa.Schema) -> None:
    """Write a part of the receipt as another version would have: `schema` with the columns that it knows."""
    old = read_table(location, table, receipts=[receipt])
    columns = [old[name] for name in schema.names]
    path = part_path(table, receipt.parts[table])
    location.replace(path, parquet_bytes([pa.table(columns, schema=schema)], schema))


def versioned(table: str, version: int, without: str | None = None) -> pa.Schema:
    schema = SCHEMAS[table]
    fields = [field for field in schema if field.name != without]
    return pa.schema(fields, metadata={**schema.metadata, b"pseudoris.version": str(version).encode()})


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_table_is_read_as_it_was_written_in_the_order_of_shards(committed, table):
    entries = make_entries()
    shards = [make_shard(entries[start : start + 4]) for start in (0, 8)]
    written = pa.concat_tables([shard_tables(shard, embed_images=True)[table] for shard in shards])
    read = read_table(committed, table)
    assert read.equals(written)
    assert read.schema.equals(SCHEMAS[table], check_metadata=True)


def test_what_no_receipt_names_is_not_read(committed):
    before = read_table(committed, "masks")
    committed.replace("masks/shard-00000001.g0-00000000.parquet", b"in the making")
    assert read_table(committed, "masks").equals(before)


def test_a_part_of_an_older_version_is_read_with_nulls_for_what_it_did_not_know(location):
    receipts = commit(location, start_run(location), 0, 1)
    rewrite(location, receipts[0], "expressions", versioned("expressions", 0, without="weight"))
    table = read_table(location, "expressions", ["text", "weight"])
    assert table["weight"].null_count == receipts[0].parts["expressions"].rows
    assert table["text"].null_count == 0
    assert read_table(location, "expressions", ["weight"]).num_rows == table.num_rows


def test_a_part_of_a_later_version_is_refused(location):
    receipts = commit(location, start_run(location), 0)
    rewrite(location, receipts[0], "masks", versioned("masks", TABLES_VERSION + 1))
    with pytest.raises(
        ConfigError, match=f"has table version {TABLES_VERSION + 1}, this package reads up to {TABLES_VERSION}"
    ):
        read_table(location, "masks")


def test_a_missing_part_is_told_with_its_shard(location):
    receipt = commit(location, start_run(location), 1)[0]
    location.delete(part_path("masks", receipt.parts["masks"]))
    with pytest.raises(ConfigError, match="missing, although the receipt of shard 1 names it"):
        read_table(location, "masks")


def test_a_damaged_part_is_told(location):
    receipt = commit(location, start_run(location), 0)[0]
    path = part_path("masks", receipt.parts["masks"])
    data = bytearray(location.read_bytes(path))
    data[30:38] = b"damaged!"
    location.replace(path, bytes(data))
    with pytest.raises(TransientError, match="the file is damaged"):
        read_table(location, "masks")


@pytest.mark.parametrize(
    ("table", "columns", "match"),
    [("captions", None, "no table 'captions'; a run has images, masks"), ("masks", ["bbox"], "has no column 'bbox'")],
)
def test_an_unknown_table_or_column_is_told_with_the_known_ones(location, table, columns, match):
    with pytest.raises(ValueError, match=match):
        read_table(location, table, columns)
