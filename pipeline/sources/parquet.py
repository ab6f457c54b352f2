"""Parquet tables of images: a column of encoded bytes, or of uris, listed by row and read by row group."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.items import SourceItem, Storage, StoredFile
from pipeline.sources.keys import path_key, row_key
from schemas.config import SourceConfig
from schemas.errors import ConfigError, ImageError

# Bounds what is decoded at once: a row group may hold many shards.
_ROWS_AT_ONCE: Final = 64
_BUFFER_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """The column that holds the images: encoded `bytes`, `uri`s, or a `struct` of {bytes, path}, one of them null."""

    name: str
    kind: Literal["bytes", "uri", "struct"]


@dataclass(frozen=True, slots=True)
class RowImage:
    """What a row says of its image: its encoded bytes, or else where they are; both None for a null."""

    data: bytes | None
    uri: str | None


def list_rows(storage: Storage, file: StoredFile, config: SourceConfig) -> Iterator[SourceItem]:
    """Yield the table's rows in order; only its footer is read.

    Raises:
        ConfigError: It is no Parquet file, or has no column of images.
    """
    with storage.open(file.path) as stream:
        try:
            table = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"{storage.describe(file.path)} cannot be read as Parquet ({error}): mend it, or leave it out of SOURCE"
            ) from error
        find_column(table.schema_arrow, config, storage.describe(file.path))
        counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    row = 0
    for group, count in enumerate(counts):
        for _ in range(count):
            yield SourceItem(
                key=row_key(file.path, row),
                etag=file.etag,
                mtime_ns=file.mtime_ns,
                row_group=group,
                row=row,
                boundary=f"{path_key(file.path)}#{group}",
            )
            row += 1


def find_column(schema: pa.Schema, config: SourceConfig, table: str) -> ImageColumn:
    """Return the first of the config's columns that the schema has with a fitting type, bytes before uris.

    Raises:
        ConfigError: There is none.
    """
    for name in config.bytes_columns:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and _is_binary(kind):
            return ImageColumn(name, "bytes")
        if kind is not None and pa.types.is_struct(kind) and _has_binary_field(kind):
            return ImageColumn(name, "struct")
    for name in config.uri_columns:
        if name in schema.names and _is_text(schema.field(name).type):
            return ImageColumn(name, "uri")
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise ConfigError(
        f"{table} has no column of images: looked for bytes or {{bytes, path}} in {', '.join(config.bytes_columns)} "
        f"and for uris in {', '.join(config.uri_columns)}, found {columns}. Name yours with --set "
        "source.bytes_columns='[name]' or source.uri_columns='[name]', or leave tables out with source.format=files"
    )


def read_rows(
    stream: BinaryIO, row_group: int, *, rows: Collection[int], config: SourceConfig, table: str
) -> Iterator[tuple[int, RowImage]]:
    """Yield (row, image) for the wanted rows of one row group, in order.

    Args:
        stream: The table, opened.
        row_group: The row group that holds them all.
        rows: Row numbers, counted over the whole file.
        config: Names the columns.
        table: The table's path, for messages.

    Raises:
        ImageError: `corrupt` where the row group cannot be decoded.
    """
    try:
        yield from _read_rows(stream, row_group, rows=frozenset(rows), config=config, table=table)
    except pa.ArrowException as error:
        raise _damaged(error) from error
    except OSError as error:
        # Arrow reports damaged pages as bare OSErrors; one from the storage has a number, or a type of its own.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    return ImageError("corrupt", f"its row group of the Parquet file cannot be decoded ({type(error).__name__})")


def _read_rows(
    stream: BinaryIO, row_group: int, *, rows: frozenset[int], config: SourceConfig, table: str
) -> Iterator[tuple[int, RowImage]]:
    parquet = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    column = find_column(parquet.schema_arrow, config, table)
    row = sum(parquet.metadata.row_group(group).num_rows for group in range(row_group))
    last = max(rows, default=-1)
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[row_group], columns=[column.name], use_threads=False):
        values = batch.column(0)
        wanted = [index for index in range(len(values)) if row + index in rows]
        yield from ((row + index, _row_image(values[index].as_py(), column)) for index in wanted)
        row += len(values)
        if row > last:
            return


def _row_image(value: bytes | str | dict[str, bytes | str | None] | None, column: ImageColumn) -> RowImage:
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        return RowImage(data if isinstance(data, bytes) else None, path if isinstance(path, str) else None)
    if column.kind == "bytes":
        return RowImage(value if isinstance(value, bytes) else None, None)
    return RowImage(None, value if isinstance(value, str) else None)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _has_binary_field(kind: pa.StructType) -> bool:
    return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
