"""Some columns and rows of a part: what the whole part holds of them, whichever row groups are read."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.tables.committed_tables import RowFilter, read_selected, read_table
from pseudoris.store.tables.parquet_files import parquet_bytes
from tests.store.builders import commit, start_run

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


def test_row_groups_that_statistics_rule_out_are_not_read(part, monkeypatch):
    location, name = part
    whole = read_table(location, EXPRESSIONS)
    ordered = whole.take(pc.sort_indices(whole["text"]))
    location.replace(f"{EXPRESSIONS}/{name}", parquet_bytes([ordered.slice(at, 1) for at in range(4)], whole.schema))
    read = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **rest: read.append(groups) or real(self, groups, **rest),
    )
    last = ordered["text"][3].as_py()
    found = read_selected(location, EXPRESSIONS, name, ("text",), RowFilter(pc.field("text") >= last, ("text",)))
    assert found["text"].to_pylist() == [text for text in ordered["text"][:4].to_pylist() if text >= last]
    assert read == [[at for at in range(4) if ordered["text"][at].as_py() >= last]]
    read.clear()
    assert not read_selected(location, EXPRESSIONS, name, ("text",), RowFilter(pc.field("text") > "~", ("text",)))
    assert read == []


def test_a_column_that_an_older_version_does_not_know_is_null_for_the_filter_too(part):
    location, name = part
    old = read_table(location, EXPRESSIONS).drop_columns(["source"])
    location.replace(f"{EXPRESSIONS}/{name}", parquet_bytes([old], old.schema))
    missing = RowFilter(pc.field("source").is_null(), ("source",))
    assert read_selected(location, EXPRESSIONS, name, ("text", "source"), missing).num_rows == old.num_rows
    assert (
        read_selected(
            location, EXPRESSIONS, name, ("text",), RowFilter(pc.field("source") == "human", ("source",))
        ).num_rows
        == 0
    )


def test_a_missing_part_a_damaged_one_and_an_unknown_column_are_named(part):
    location, name = part
    with pytest.raises(ConfigError, match=r"nowhere.parquet is missing, although a receipt names it"):
        read_selected(location, EXPRESSIONS, "nowhere.parquet", ("text",))
    with pytest.raises(ValueError, match="table expressions has no column 'pixels'"):
        read_selected(location, EXPRESSIONS, name, ("pixels",))
    data = bytearray(location.read_bytes(f"{EXPRESSIONS}/{name}"))
    data[40:400] = bytes(360)
    location.replace(f"{EXPRESSIONS}/{name}", bytes(data))
    with pytest.raises(TransientError, match="cannot be read as Parquet"):
        read_selected(location, EXPRESSIONS, name, SCHEMAS[EXPRESSIONS].names, KEPT)
