"""Committed tables, whole or by columns and rows: what receipts name, and nothing else."""

from __future__ import annotations

import io
import random

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.tables.committed_tables import RowFilter, read_selected
from pseudoris.store.tables.parquet_files import open_parquet, parquet_bytes
from pseudoris.store.tables.shard_tables import shard_tables
from tests.builders.tables import read_table
from tests.store.builders import commit, make_entries, make_shard, start_run


@pytest.fixture
def committed(location):
    commit(location, start_run(location), 0, 2)
    return location


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


KEPT = RowFilter(pc.field("kept"), ("kept",))


@pytest.fixture
def part(location):
    (receipt,) = commit(location, start_run(location), 0)
    return location, receipt.parts[EXPRESSIONS].name


def test_rows_that_the_filter_keeps_come_with_the_columns_asked_for(part):
    location, name = part
    found = read_selected(location, EXPRESSIONS, name, ("text", "image_id"), KEPT)
    whole = read_table(location, EXPRESSIONS)
    assert found.equals(whole.filter(whole["kept"]).select(["text", "image_id"]))
    assert 0 < found.num_rows < whole.num_rows
    assert read_selected(location, EXPRESSIONS, name, SCHEMAS[EXPRESSIONS].names).equals(whole)


def test_a_missing_part_a_damaged_one_and_an_unknown_column_are_named(part):
    location, name = part
    with pytest.raises(ConfigError, match=r"nowhere.parquet is missing, although a receipt names it"):
        read_selected(location, EXPRESSIONS, "nowhere.parquet", ("text",))
    with pytest.raises(ValueError, match="table expressions has no column 'pixels'"):
        read_selected(location, EXPRESSIONS, name, ("pixels",))
    data = bytearray(location.read_bytes(f"{EXPRESSIONS}/{name}"))
    data[40:400] = bytes(360)
    location.replace(f"{EXPRESSIONS}/{name}", bytes(data))
    with pytest.raises(ConfigError, match=r"cannot be read as Parquet \(.* command of this run again with --repair"):
        read_selected(location, EXPRESSIONS, name, SCHEMAS[EXPRESSIONS].names, KEPT)


# The bytes belong to this version of pyarrow, whose name stands in every footer.
GOLDEN_PYARROW = "26.0.1"
GOLDEN_SHA256 = "41a2e01a19457f0acf78e7c89f49c2f552d2030d6fb3591c9edaca4eb9731bcf"

TABLE = pa.Table.from_pylist(
    [
        {"id": "a", "score": 0.5, "box": [1, 2]},
        {"id": "b", "score": None, "box": []},
        {"id": "b", "score": -1.0, "box": [3]},
    ],
    schema=pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata={"doc": "An id."}),
            pa.field("score", pa.float64()),
            pa.field("box", pa.list_(pa.field("element", pa.int32()))),
        ],
        metadata={"pseudoris.version": "1"},
    ),
)


@pytest.mark.skipif(pa.__version__ != GOLDEN_PYARROW, reason=f"the golden bytes are those of pyarrow {GOLDEN_PYARROW}")
def test_a_fixed_table_has_the_bytes_it_always_had():
    assert sha256_hex(parquet_bytes([TABLE], TABLE.schema)) == GOLDEN_SHA256


def test_any_damage_of_a_footer_is_told_as_such():
    whole = parquet_bytes([pa.table({"naïve": pa.array([1, 2])})], pa.schema([("naïve", pa.int64())]))
    length = int.from_bytes(whole[-8:-4], "little") + 8
    changes = random.Random(0)
    num_damaged = 0
    for _ in range(300):
        data = bytearray(whole)
        data[-changes.randrange(9, length)] = changes.randrange(256)
        try:
            open_parquet(io.BytesIO(data), "part")
        except TransientError as error:
            num_damaged += str(error).startswith("part cannot be read as Parquet")
    assert num_damaged > 50
