"""Inputs by the million: Parquet tables of images of a few bytes, and tars of them."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

# Of a table: a reader parses its footer once a shard, and a footer grows with its row groups.
_MAX_GROUPS: Final = 100
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY_4_X_4: Final = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)


def tiny_png(number: int) -> bytes:
    """Return a PNG of 4 × 4 grey pixels, another for each `number` below 2^64."""
    rows = number.to_bytes(8, "big").hex(" ", 2).split()
    scanlines = b"".join(b"\0" + bytes.fromhex(row) * 2 for row in rows)
    return (
        _SIGNATURE + _chunk(b"IHDR", _GREY_4_X_4) + _chunk(b"IDAT", zlib.compress(scanlines, 1)) + _chunk(b"IEND", b"")
    )


def write_tables(folder: Path, *, rows: int, group_rows: int) -> Path:
    """Write `rows` images as Parquet files with row groups of `group_rows`, which bound shards; return their folder."""
    folder.mkdir(parents=True)
    table_rows = group_rows * _MAX_GROUPS
    for first in range(0, rows, table_rows):
        images = [tiny_png(number) for number in range(first, min(first + table_rows, rows))]
        table = pa.table({"bytes": pa.array(images, pa.binary())})
        pq.write_table(table, folder / f"images-{first:012d}.parquet", row_group_size=group_rows)
    return folder


def write_tars(folder: Path, *, tars: int, members: int) -> Path:
    """Write `tars` WebDataset tars of `members` images each; return their folder."""
    folder.mkdir(parents=True)
    for number in range(tars):
        with tarfile.open(folder / f"{number:06d}.tar", "w") as tar:
            for member in range(members):
                data = tiny_png(number * members + member)
                info = tarfile.TarInfo(f"{member:08d}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
