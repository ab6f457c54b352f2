"""Columns of untrusted Parquet files: read whole if they are small, refused if a small file is not."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.images.parquet_pages import TABLE_ALWAYS_BYTES, read_columns
from pseudoris.schemas.errors import ConfigError


def written(columns, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def repeated(value, count):
    """Return a column of one value: of any number of rows it takes a few bytes."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


def test_the_wanted_columns_that_are_there_are_read_in_the_order_of_asking():
    table = pa.table({"b": [1, 2] * 50, "c": ["x"] * 100, "a": [{"k": [1]}] * 100})
    found = read_columns(written(table, row_group_size=30), ("a", "b", "d"), where="t")
    assert found.to_pydict() == table.select(["a", "b"]).to_pydict()


def test_without_a_wanted_column_the_schema_is_told():
    assert read_columns(written({"b": [1]}), ("a",), where="t").schema.names == ["b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (written({"a": repeated("x", 50_000)}), r"^t claims 50,000 rows in [\d,]+ bytes"),
        (
            written({"a": pa.array([bytes(80 * 2**20)])}, use_dictionary=False),
            "^t cannot be read .* unpacks",
        ),
        *(
            (
                written({"a": repeated("x" * 2**20, 1_000)}, store_schema=kept, compression="none"),
                "^t unpacks .* 16 times",
            )
            for kept in (True, False)
        ),
        (b"PAR1", "^t cannot be read as Parquet"),
    ],
    ids=["rows", "page", "dictionary", "encoded", "cut"],
)
def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(data, message):
    before = pa.total_allocated_bytes()
    with pytest.raises(ConfigError, match=message):
        read_columns(data, ("a",), where="t")
    assert pa.total_allocated_bytes() - before < 2 * TABLE_ALWAYS_BYTES
