"""Parquet tables of images: columns found by name and type, rows listed by group and read alone."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest

from pipeline.sources import open_source
from pipeline.sources.parquet import ImageColumn, RowImage, find_column, read_rows
from schemas.config import SourceConfig
from schemas.errors import ConfigError, ImageError
from tests.builders.sources import parquet_bytes

AUTO = SourceConfig()


def rows_of(data, row_group, rows, config=AUTO):
    return dict(read_rows(io.BytesIO(data), row_group, rows=rows, config=config, table="t.parquet"))


def test_rows_are_listed_by_number_and_bounded_by_their_row_group(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes({"bytes": [bytes([n]) for n in range(12)]}, rows_per_group=5))
    items = list(open_source(str(path), AUTO).list())
    assert [item.key for item in items] == [f"t.parquet#{n}" for n in range(12)]
    assert [item.row_group for item in items] == [0] * 5 + [1] * 5 + [2] * 2
    assert [item.boundary for item in items][4:6] == ["t.parquet#0", "t.parquet#1"]
    assert items[0].size_bytes is None


def test_a_table_without_rows_lists_nothing_beside_one_with_rows(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet_bytes({"bytes": pa.array([], pa.binary())}))
    (tmp_path / "b.parquet").write_bytes(parquet_bytes({"bytes": [b"x"]}))
    assert [item.key for item in open_source(str(tmp_path), AUTO).list()] == ["b.parquet#0"]


def test_only_the_wanted_rows_of_a_row_group_are_read():
    data = parquet_bytes({"bytes": [str(n).encode() for n in range(400)], "caption": ["c"] * 400}, rows_per_group=200)
    assert rows_of(data, 1, [200, 273, 399]) == {n: RowImage(str(n).encode(), None) for n in (200, 273, 399)}
    assert rows_of(data, 0, [400]) == {}


def test_structs_of_bytes_and_path_are_read_as_hugging_face_writes_them():
    data = parquet_bytes({"image": [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]})
    assert rows_of(data, 0, [0, 1, 2]) == {
        0: RowImage(b"x", "a.jpg"),
        1: RowImage(None, "b.jpg"),
        2: RowImage(None, None),
    }


def test_uris_are_read_where_there_are_no_bytes():
    assert rows_of(parquet_bytes({"url": ["s3://b/a.jpg", None]}), 0, [0, 1]) == {
        0: RowImage(None, "s3://b/a.jpg"),
        1: RowImage(None, None),
    }


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ([("path", pa.string()), ("bytes", pa.binary())], ImageColumn("bytes", "bytes")),
        ([("image", pa.large_binary()), ("bytes", pa.int64())], ImageColumn("image", "bytes")),
        ([("image", pa.string()), ("url", pa.string()), ("path", pa.string())], ImageColumn("url", "uri")),
        ([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))], ImageColumn("image", "struct")),
    ],
)
def test_the_first_fitting_column_counts_bytes_before_uris(fields, column):
    assert find_column(pa.schema(fields), AUTO, "t.parquet") == column


def test_a_table_without_a_column_of_images_says_what_it_has(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes({"picture": [b"x"]}))
    with pytest.raises(ConfigError, match=r"found picture: binary\. Name yours with --set source\.bytes_columns"):
        list(open_source(str(path), AUTO).list())
    assert len(list(open_source(str(path), SourceConfig(bytes_columns=("picture",))).list())) == 1


def test_what_is_no_table_is_the_users_to_mend(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match=r"t\.parquet cannot be read as Parquet"):
        list(open_source(str(tmp_path), AUTO).list())


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

    with pytest.raises(OSError, match="Input/output error"):
        list(read_rows(FailingDisk(parquet_bytes({"bytes": [b"x"]})), 0, rows=[0], config=AUTO, table="t"))
