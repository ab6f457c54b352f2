"""Page headers of Parquet against pyarrow's own account, pages that are refused, and columns of small values."""

from __future__ import annotations

import io
import itertools
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.images.parquet_pages import (
    ALWAYS_BYTES,
    TABLE_ALWAYS_BYTES,
    CutShortError,
    WatchedPages,
    parse_page_header,
    read_columns,
)
from pseudoris.primitives.errors import ConfigError, ImageError
from tests.builders.sources import parquet_bytes

MIB = 2**20
ROWS = [random.Random(0).randbytes(700) for _ in range(9)] + [None] + [b"\0" * 50_000] * 4


def written(rows, **options) -> bytes:
    return parquet_bytes({"bytes": rows}, **{"compression": "zstd", "use_dictionary": False, **options})


def chunk_of(data: bytes):
    """Return pyarrow's account of the only column chunk, and the chunk's bytes."""
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    start = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
    return chunk, start, data[start : start + chunk.total_compressed_size]


def headers_of(chunk: bytes):
    at, found = 0, []
    while at < len(chunk):
        header = parse_page_header(chunk[at:])
        found.append(header)
        at += header.size_bytes + header.packed_bytes
    assert at == len(chunk)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none"},
        {"data_page_version": "2.0"},
        {"use_dictionary": True},
        {"write_page_checksum": True, "write_statistics": True},
        {"data_page_size": 2_000, "write_batch_size": 2},
        {"column_encoding": {"bytes": "DELTA_BYTE_ARRAY"}},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_headers_add_up_to_what_pyarrow_says_of_the_chunk(options):
    chunk, _, data = chunk_of(written(ROWS, **options))
    headers = headers_of(data)
    assert sum(each.size_bytes + each.packed_bytes for each in headers) == chunk.total_compressed_size
    assert sum(each.size_bytes + each.unpacked_bytes for each in headers) == chunk.total_uncompressed_size
    data_pages = headers[1:] if "use_dictionary" in options else headers
    assert sum(each.num_values for each in data_pages) == chunk.num_values == len(ROWS)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_none(data):
    try:
        header = parse_page_header(data)
    except (CutShortError, ValueError):
        return
    assert 0 < header.size_bytes <= len(data)


def thrift(*fields: tuple[int, bytes]) -> bytes:
    """Return a struct of fields with explicit numbers: (type << 16 | number, value)."""
    return b"".join(bytes([key >> 16]) + varint((key & 0xFFFF) << 1) + value for key, value in fields) + b"\0"


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


I32 = 5 << 16


def test_numbers_are_cut_to_the_bits_that_arrow_keeps():
    size = 5_000
    honest = [(I32 | 1, varint(0)), (I32 | 2, varint(10)), (I32 | 3, varint(10))]
    wide = thrift(*honest[:1], (I32 | 2, varint((size << 1) + 2**32)), *honest[2:])
    assert parse_page_header(wide).unpacked_bytes == size
    # Field 65,538 is field 2 to a reader that keeps 16 bits, and stands after it.
    head = thrift(*honest)[:-1]
    again = head + bytes([5]) + varint((65_536 + 2) << 1) + varint(size << 1) + b"\0"
    assert parse_page_header(again).unpacked_bytes == size


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\xff" * 40,
        thrift((I32 | 1, varint(0)), (I32 | 2, varint(1)), (I32 | 3, varint(2))),
        b"\x19\xfc" + b"\xff" * 4 + b"\x0f" + b"\0" * 2_000,
        b"\x1c" * 100_000,
        b"\x15\x00" * 5_000,
    ],
    ids=["nothing", "no kind", "negative", "a long list", "deep", "many fields"],
)
def test_what_is_no_page_header_is_refused(data):
    with pytest.raises(ValueError, match=r"page header|ten bytes"):
        parse_page_header(data)


def read_in_pieces(pages, end, sizes) -> None:
    while pages.tell() < end:
        pages.read(min(next(sizes), end - pages.tell()))


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=60))
def test_a_bomb_is_found_however_the_chunk_is_read(sizes):
    data = BOMB_BEHIND_PICTURES
    _, start, chunk = chunk_of(data)
    pages = WatchedPages(io.BytesIO(data), max_bytes=MIB)
    pages.watch()
    pages.seek(start)
    with pytest.raises(ImageError, match="unpacks") as caught:
        read_in_pieces(pages, start + len(chunk), itertools.cycle(sizes))
    assert caught.value.reason == "too_many_bytes"


def read_all(data: bytes, max_bytes: int) -> None:
    _, start, chunk = chunk_of(data)
    pages = WatchedPages(io.BytesIO(data), max_bytes)
    pages.watch()
    pages.seek(start)
    pages.read(len(chunk))


BOMB_BEHIND_PICTURES = written(
    [random.Random(1).randbytes(5_000) for _ in range(30)] + [b"\0" * (ALWAYS_BYTES + 1)],
    data_page_size=1_000,
    write_batch_size=1,
    write_statistics=False,
)


@pytest.mark.slow
def test_a_page_of_many_images_that_are_really_there_is_no_bomb():
    rows = [random.Random(n).randbytes(MIB) for n in range(66)]
    read_all(written(rows, data_page_size=2**30, write_batch_size=1024), max_bytes=2 * MIB)


@pytest.mark.slow
def test_a_page_whose_values_are_too_large_on_average_is_refused_though_it_is_there():
    data = written([random.Random(0).randbytes(ALWAYS_BYTES + 1)], compression="none")
    with pytest.raises(ImageError, match=f"allows it {ALWAYS_BYTES:,}"):
        read_all(data, max_bytes=MIB)
    read_all(data, max_bytes=ALWAYS_BYTES + 1)


def repeated(value, count):
    """Return a column of one value: of any number of rows it takes a few bytes."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


def test_the_wanted_columns_that_are_there_are_read_in_the_order_of_asking():
    table = pa.table({"b": [1, 2] * 50, "c": ["x"] * 100, "a": [{"k": [1]}] * 100})
    found = read_columns(parquet_bytes(table, row_group_size=30), ("a", "b", "d"), where="t")
    assert found.to_pydict() == table.select(["a", "b"]).to_pydict()
    # Without a wanted column the schema is told.
    assert read_columns(parquet_bytes({"b": [1]}), ("a",), where="t").schema.names == ["b"]


# Written where they are read, not in every process that collects: they take seconds.
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (lambda: {"a": repeated("x", 50_000)}, {}, r"^t claims 50,000 rows in [\d,]+ bytes"),
        (lambda: {"a": pa.array([bytes(80 * 2**20)])}, {"use_dictionary": False}, "^t cannot be read .* unpacks"),
        *(
            (
                lambda: {"a": repeated("x" * 2**20, 1_000)},
                {"store_schema": kept, "compression": "none"},
                "^t unpacks .* 16 times",
            )
            for kept in (True, False)
        ),
        (None, {}, "^t cannot be read as Parquet"),
    ],
    ids=["rows", "page", "dictionary", "encoded", "cut"],
)
def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(columns, options, message):
    data = b"PAR1" if columns is None else parquet_bytes(columns(), **options)
    before = pa.total_allocated_bytes()
    with pytest.raises(ConfigError, match=message):
        read_columns(data, ("a",), where="t")
    assert pa.total_allocated_bytes() - before < 2 * TABLE_ALWAYS_BYTES
