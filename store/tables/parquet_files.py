"""Parquet with fixed settings: equal content gives equal bytes, however the table was built."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.schemas.errors import TransientError

# Rows. Above any shard of the presets, so that a table is one row group and readers prune by file.
ROW_GROUP_SIZE: Final = 65_536

# Each value is pinned although some are pyarrow's defaults: a default may move between its versions.
# Nothing here writes a time; pyarrow's own version stands in the footer and is part of the identity.
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
# Encoded images are all different: a dictionary of them is a second copy that is then thrown away.
_WITHOUT_DICTIONARY: Final = frozenset({"bytes"})


def parquet_bytes(row_groups: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Return a Parquet file of `schema` with one row group a table (none is written for no rows)."""
    sink = io.BytesIO()
    with open_writer(sink, schema) as writer:
        for table in row_groups:
            # Page boundaries follow the chunks of the table, unless it has one.
            writer.write_table(table.combine_chunks(), row_group_size=max(table.num_rows, 1))
    return sink.getvalue()


def open_writer(sink: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer with the fixed settings; equal row groups in give equal bytes out."""
    flat = [name for name in schema.names if name not in _WITHOUT_DICTIONARY]
    # A list names leaf columns, which for nested schemas are long paths: only a table that needs it pays.
    use_dictionary: bool | list[str] = True if len(flat) == len(schema.names) else flat
    return pq.ParquetWriter(sink, schema, use_dictionary=use_dictionary, **_SETTINGS)


def open_parquet(file: BinaryIO, name: str) -> pq.ParquetFile:
    """Return `file` as Parquet whose page checksums are verified on reading.

    Read from it with `use_threads=False`: what Arrow's pools still hold of a Python file when the interpreter ends
    makes it abort or hang, after all work is done (https://github.com/apache/arrow/issues/50482). For the same reason
    nothing is fetched ahead.

    Raises:
        TransientError: It is no Parquet file, or cut short; `name` is in the message.
    """
    try:
        return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    except MemoryError:
        raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise TransientError(damaged(name, error)) from error
    except OSError as error:
        # Arrow reports damage as bare OSErrors too; one from the storage has a number, or a type of its own.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise TransientError(damaged(name, error)) from error


def damaged(name: str, error: Exception) -> str:
    """Return the text for a file whose content does not read."""
    return f"{name} does not read as Parquet ({error}): its storage damaged it; run `pseudoris verify` for the extent"
