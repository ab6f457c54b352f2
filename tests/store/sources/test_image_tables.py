"""Parquet tables of images: columns found by name and type, rows listed by group and read alone."""

from __future__ import annotations

import io
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.store.sources import open_source
from pseudoris.store.sources.image_tables import ImageColumn, RowImage, find_column, read_rows
from tests.builders.sources import parquet_bytes

AUTO = SourceConfig()


def rows_of(data, row_group, rows, config=AUTO, max_bytes=2**20):
    found = read_rows(io.BytesIO(data), row_group, rows=rows, config=config, max_bytes=max_bytes, table="t.parquet")
    return dict(found)


def test_rows_are_listed_by_number_and_bounded_by_their_row_group(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes({"bytes": [bytes([n]) for n in range(12)]}, rows_per_group=5))
    items = list(open_source(str(path), AUTO).list())
    assert [item.key for item in items] == [f"t.parquet#{n}" for n in range(12)]
    assert [item.row_group for item in items] == [0] * 5 + [1] * 5 + [2] * 2
    assert [item.boundary for item in items][4:6] == ["t.parquet#0", "t.parquet#1"]
    assert items[0].size_bytes is None


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()], ids=str)
@pytest.mark.parametrize(
    ("kind", "column", "field"), [(pa.string(), "url", "uri"), (pa.binary(), "bytes", "data")], ids=["text", "bytes"]
)
def test_a_column_of_categories_is_one_of_their_values(index, kind, column, field):
    values = ["a.jpg", None, "a.jpg", "b.jpg"] if column == "url" else [b"a", None, b"a", b"b"]
    categories = pa.array(values, kind).cast(pa.dictionary(index, kind))
    data = parquet_bytes({column: categories})
    assert pa.types.is_dictionary(pq.read_schema(io.BytesIO(data)).field(0).type)
    assert [getattr(image, field) for image in rows_of(data, 0, range(4)).values()] == values


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"path": pa.string(), "bytes": pa.binary()}, ImageColumn("bytes", "bytes")),
        ({"image": pa.large_binary(), "bytes": pa.int64()}, ImageColumn("image", "bytes")),
        (dict.fromkeys(("image", "url", "path"), pa.string()), ImageColumn("url", "uri")),
    ],
)
def test_the_first_fitting_column_counts_bytes_before_uris(fields, column):
    assert find_column(pa.schema(fields.items()), AUTO, "t.parquet") == column


def test_a_table_without_a_column_of_images_says_what_it_has(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes({"picture": [b"x"]}))
    with pytest.raises(ConfigError, match=r"found picture: binary\. Name your column with --set source\.bytes_columns"):
        list(open_source(str(path), AUTO).list())
    assert len(list(open_source(str(path), SourceConfig(bytes_columns=("picture",))).list())) == 1


def test_a_damaged_row_group_is_no_error_of_storage():
    data = bytearray(parquet_bytes({"bytes": [b"abc" * 50] * 200}))
    data[4:60] = b"\xff" * 56
    with pytest.raises(ImageError, match="row group of the Parquet file cannot be decoded") as caught:
        rows_of(bytes(data), 0, [3])
    assert caught.value.reason == "corrupt"


def test_an_error_of_the_disk_passes_as_what_it_is():
    class FailingDisk(io.BytesIO):
        def read(self, *args):
            raise OSError(5, "Input/output error")

    disk = FailingDisk(parquet_bytes({"bytes": [b"x"]}))
    with pytest.raises(OSError, match="Input/output error"):
        list(read_rows(disk, 0, rows=[0], config=AUTO, max_bytes=1, table="t"))


def texts(*rows):
    """Return a text column that holds these bytes, UTF-8 or not."""
    return pa.Array.from_buffers(pa.string(), len(rows), pa.array(rows, pa.binary()).buffers())


def test_a_row_that_is_not_utf8_costs_no_other_row():
    data = parquet_bytes({"url": texts(b"a.jpg", b"caf\xe9.jpg", b"b.jpg")})
    assert [image.uri for image in rows_of(data, 0, [0, 1, 2]).values()] == ["a.jpg", "caf\udce9.jpg", "b.jpg"]


@pytest.mark.slow
def test_a_dictionary_bomb_costs_one_row_at_a_time():
    size_bytes = 2**24
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array([b"\0" * size_bytes]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"bytes": column}), buffer, compression="zstd", store_schema=False)
    assert len(buffer.getvalue()) < 4_000
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    peak = 0
    for _, image in read_rows(buffer, 0, rows=range(256), config=AUTO, max_bytes=size_bytes, table="t"):
        assert len(image.data) == size_bytes
        peak = max(peak, pool.bytes_allocated() - before)
    assert peak < 8 * size_bytes


BOMB = b"\0" * (80 * 2**20)


# Reads a sound table, which loads what is loaded once, then the bomb; tells the reason and how much was added.
READ_AND_TELL = """
import io, resource, sys
from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ImageError
from pseudoris.store.sources.image_tables import read_rows

def read(data):
    return list(read_rows(io.BytesIO(data), 0, rows=[0], config=SourceConfig(), max_bytes=2**20, table="t"))

bomb = sys.stdin.buffer.read()
read(bytes.fromhex(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(bomb)
except ImageError as error:
    print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "column",
    [
        [BOMB],
        [b"x"] * 500 + [BOMB] + [b"y"] * 500,
        [{"bytes": BOMB, "path": "a.png"}],
        [{"bytes": b"x", "path": BOMB.decode()}],
    ],
    ids=["alone", "among small ones", "in a struct", "a path"],
)
def test_a_page_that_unpacks_to_a_bomb_is_never_unpacked(column):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer, compression="zstd", use_dictionary=False)
    data = buffer.getvalue()
    assert len(data) < 40_000
    del buffer
    small = parquet_bytes({"image": [b"x"]}).hex()
    done = subprocess.run([sys.executable, "-c", READ_AND_TELL, small], input=data, capture_output=True, check=True)
    reason, grown_kib = done.stdout.split()
    assert reason == b"too_many_bytes"
    assert int(grown_kib) * 1024 < len(BOMB) // 8


def zigzag(number: int) -> bytes:
    """Return a number below 8,192 as two bytes of a Thrift footer."""
    coded = number << 1 if number >= 0 else (-number << 1) - 1
    return bytes([coded & 127 | 128, coded >> 7])


@pytest.mark.parametrize(
    ("claimed", "count"), [(8_191, -1), (-200, -1), (199, 1)], ids=["more than bytes", "negative", "not the sum"]
)
def test_a_footer_that_claims_rows_which_cannot_be_there_is_refused(tmp_path, claimed, count):
    data = parquet_bytes({"bytes": [b"x"] * 200})
    length = int.from_bytes(data[-8:-4], "little") + 8
    footer = data[-length:]
    assert footer.count(zigzag(200)) >= 2
    (tmp_path / "t.parquet").write_bytes(data[:-length] + footer.replace(zigzag(200), zigzag(claimed), count))
    with pytest.raises(
        ConfigError, match=r"t\.parquet cannot be read as Parquet: its footer claims .* remove it from SOURCE"
    ):
        list(open_source(str(tmp_path), AUTO).list())


def test_any_damage_of_a_footer_is_told_as_such(tmp_path):
    whole = parquet_bytes({"bytes": [b"x"] * 20, "naïve": ["y"] * 20})
    length = int.from_bytes(whole[-8:-4], "little") + 8
    changes = random.Random(0)
    num_refused = 0
    for _ in range(400):
        data = bytearray(whole)
        data[-changes.randrange(9, length)] = changes.randrange(256)
        (tmp_path / "t.parquet").write_bytes(data)
        try:
            assert len(list(open_source(str(tmp_path), AUTO).list())) == 20
        except ConfigError:
            num_refused += 1
    assert num_refused > 100


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_an_image_that_is_too_large_costs_no_other_image(kind):
    data = parquet_bytes({"bytes": pa.array([b"x" * 10, b"y" * 11, b"z"], kind)})
    found = rows_of(data, 0, [0, 1, 2], max_bytes=10)
    assert (found[0], found[2]) == (RowImage(b"x" * 10, None), RowImage(b"z", None))
    assert isinstance(found[1], ImageError)
    assert (found[1].reason, str(found[1])[:41]) == ("too_many_bytes", "11 bytes; images.max_bytes allows 10: rai")


def test_rows_are_listed_with_the_mean_size_of_their_group_and_uris_with_none(tmp_path):
    images = [random.randbytes(100_000), random.randbytes(300_000)]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"bytes": images}, rows_per_group=2))
    (tmp_path / "u.parquet").write_bytes(parquet_bytes({"url": ["a.jpg"]}))
    first, second, uri = (item.expected_bytes for item in open_source(str(tmp_path), SourceConfig()).list())
    assert 200_000 <= first == second < 210_000
    assert uri == 0
