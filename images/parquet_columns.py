"""Whole columns of small values from a user's Parquet file, which may come from elsewhere: hashes, masks, names."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.images.parquet_pages import WatchedPages
from pseudoris.schemas.errors import ConfigError, ImageError

# The run lengths of a mask of 100 megapixels are a fifth of it.
MAX_VALUE_BYTES: Final = 16 * 2**20
# All values may unpack to this many times the file's bytes: names of images repeat, run lengths shrink to a third.
MAX_UNPACKING: Final = 16
ALWAYS_BYTES: Final = 256 * 2**20
# Bounds what is unpacked at once: a value of a dictionary takes one place in the file, and is named by every row.
_ROWS_AT_ONCE: Final = 8


def read_columns(data: bytes, names: Collection[str], *, where: str) -> pa.Table:
    """Return those of the columns that the file has, in one chunk each; where it has none, its schema without rows.

    Args:
        data: The file, whole.
        names: Of columns.
        where: The option and the file, for messages.

    Raises:
        ConfigError: It is not Parquet, is damaged, or unpacks to far more than its size.
    """
    pages = WatchedPages(io.BytesIO(data), MAX_VALUE_BYTES)
    try:
        file = pq.ParquetFile(pages, pre_buffer=False)
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        wanted = [name for name in names if name in schema.names]
        if num_rows > len(data):
            raise ConfigError(
                f"{where} claims {num_rows:,} rows in {len(data):,} bytes. A row takes more than a byte. Write the "
                "file again."
            )
        if not wanted:
            return schema.empty_table()
        pages.watch()
        batches, left = [], max(ALWAYS_BYTES, MAX_UNPACKING * len(data))
        for read in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            # Else a dictionary's values would be multiplied where it becomes text.
            columns = [each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in read]
            batch = pa.RecordBatch.from_arrays(columns, names=read.schema.names)
            left -= batch.nbytes
            if left < 0:
                raise ConfigError(
                    f"{where} unpacks {len(data):,} bytes to more than {MAX_UNPACKING} times as many. Write the file "
                    "with one value a row."
                )
            batches.append(batch)
        if not batches:
            return pa.schema([field for field in schema if field.name in wanted]).empty_table()
        return pa.Table.from_batches(batches).combine_chunks()
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, ImageError) as error:
        shown = " ".join(str(error).split())[:300]
        raise ConfigError(f"{where} cannot be read as Parquet: {shown}. Write the file again.") from error
