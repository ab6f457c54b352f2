"""Writes and reads all Parquet: equal content, equal bytes. Called by `store`, `interchange` and `audit`."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.primitives.errors import TransientError

# A row group of a table has at most this many rows. Readers skip whole row groups by their statistics.
ROW_GROUP_SIZE: Final = 65_536

# Each value is pinned although some are pyarrow's defaults: a default may change between versions.
# No setting writes a time. The footer holds pyarrow's version, which is part of the run's identity.
_SETTINGS: Final[dict[str, Any]] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "data_page_version": "1.0",
    "data_page_size": 2**20,
    "dictionary_pagesize_limit": 2**20,
    "write_batch_size": 1024,
    "write_statistics": True,
    "write_page_checksum": True,
    "store_schema": True,
}
# These columns have no dictionary, because encoded images all differ: a dictionary would be a second copy.
_WITHOUT_DICTIONARY: Final = frozenset({"bytes"})


def parquet_bytes(
    row_groups: Iterable[pa.Table], schema: pa.Schema, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes of a Parquet file of `schema` with one row group per table; `metadata` go into its footer."""
    sink = io.BytesIO()
    with open_writer(sink, schema) as writer:
        for table in row_groups:
            # The table is written as one chunk, because page boundaries follow chunks: equal rows give equal bytes.
            writer.write_table(table.combine_chunks(), row_group_size=max(table.num_rows, 1))
        if metadata is not None:
            writer.add_key_value_metadata(dict(metadata))
    return sink.getvalue()


def open_writer(sink: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer with the fixed settings. Equal row groups give equal bytes."""
    flat = [name for name in schema.names if name not in _WITHOUT_DICTIONARY]
    # The list is given only if a column is left out, because it must name the leaf columns of nested schemas.
    use_dictionary: bool | list[str] = True if len(flat) == len(schema.names) else flat
    return pq.ParquetWriter(sink, schema, use_dictionary=use_dictionary, **_SETTINGS)


def open_parquet(file: BinaryIO, name: str, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Return `file` opened as Parquet, with its `footer` if that was read before. Reading verifies the page checksums.

    Read from it with `use_threads=False`. If Arrow's thread pools still hold a Python file when the interpreter exits,
    it aborts or hangs (https://github.com/apache/arrow/issues/50482). For the same reason pre-buffering is off.

    Raises:
        TransientError: The file is not Parquet, or is truncated. The message shows `name`.
    """
    try:
        return pq.ParquetFile(file, metadata=footer, page_checksum_verification=True, pre_buffer=False)
    except Exception as error:  # a hostile footer; other errors are raised again
        if not is_damage(error):
            raise
        raise DamagedError(damaged(name, error)) from error


class DamagedError(TransientError):
    """A Parquet file cannot be read, whatever is tried. Its cause is pyarrow's error."""


def is_damage(error: Exception) -> bool:
    """Return whether pyarrow raises this error for a damaged file."""
    if isinstance(error, MemoryError):
        return False  # Arrow's own is an ArrowException too
    # For damage, Arrow also raises a plain OSError without a number. Storage errors have a number or another type.
    is_bare = type(error) is OSError and error.errno is None
    return is_bare or isinstance(error, pa.ArrowException | UnicodeDecodeError)


def damaged(name: str, error: Exception) -> str:
    """Return the error message for a file whose content cannot be read."""
    return f"{name} cannot be read as Parquet ({error}): the file is damaged. Run `pseudoris verify` to find all damage"


_KEY: Final = "pseudoris.sha256"
_BLANK: Final = "0" * 64
# Matches the key, the type and length of the value in Thrift's compact protocol, and the value.
_SEAL: Final = re.compile(re.escape(_KEY.encode()) + rb"\x18\x40([0-9a-f]{64})")
# The digest is within this many bytes of the file's end, because only short fields of the footer follow it.
_TAIL_BYTES: Final = 2**16
_BLOCK_BYTES: Final = 2**20


def sealed_parquet_bytes(row_groups: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Return `parquet_bytes` with the digest of the file, without these 64 digits, in the metadata of its footer."""
    data = parquet_bytes(row_groups, schema, {_KEY: _BLANK})
    place = data.rindex(_BLANK.encode())
    head, tail = data[:place], data[place + len(_BLANK) :]
    return head + hashlib.sha256(head + tail).hexdigest().encode() + tail


def is_intact(file: BinaryIO) -> bool | None:
    """Return whether the file has the digest that it names; None if it names none.

    One pass, a megabyte at a time. The file is left at its start.
    """
    start = max(file.seek(0, io.SEEK_END) - _TAIL_BYTES, 0)
    file.seek(start)
    matches = list(_SEAL.finditer(file.read()))
    file.seek(0)
    if not matches:
        return None
    left, digest = start + matches[-1].start(1), hashlib.sha256()
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        digest.update(block)
        left -= len(block)
    file.seek(len(_BLANK), io.SEEK_CUR)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest().encode() == matches[-1][1]
