"""Parquet tables of images: lists their rows for plans, and reads them by row group for `planned_images`.

A table is untrusted: its footer may claim anything, its pages may be bombs. At most one checked page is unpacked at
once, and every fault becomes an error of the table or of its images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.files.key_order import path_key, row_key
from pseudoris.files.parquet_files import is_damage
from pseudoris.files.storage import StoredFile
from pseudoris.images.parquet_pages import WatchedPages
from pseudoris.primitives.errors import ConfigError, ImageError, too_many_bytes
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources.items import LeftOut, SourceItem
from pseudoris.store.sources.root import SourceRoot

# Rows decoded at once. A kilobyte can hold an image of gigabytes that each row repeats, so images are decoded one by
# one. Uris come by the million, and most are passed over: each takes 3 us alone, 0.5 in eights.
_IMAGES_AT_ONCE: Final = 1
_URIS_AT_ONCE: Final = 8
_BUFFER_BYTES: Final = 2**20
# A read of a table's end has this many bytes, because pyarrow reads as many to find the footer.
_FOOTER_BYTES: Final = 64 * 2**10
# A message shows at most this many columns of an untrusted table, and this many characters of a text.
_SHOWN_COLUMNS: Final = 20
_SHOWN_LETTERS: Final = 200


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """The column that holds the images: encoded `bytes`, `uri`s, or a `struct` of {bytes, path}, one of them null."""

    name: str
    kind: Literal["bytes", "uri", "struct"]


@dataclass(frozen=True, slots=True)
class RowImage:
    """A row's image: its encoded bytes, or else where they are; both None for a null."""

    data: bytes | None
    uri: str | None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group by its footer: number of rows, and mean bytes of a row; None for a column of uris."""

    num_rows: int
    mean_bytes: int | None = None


def count_rows(
    root: SourceRoot, file: StoredFile, config: SourceConfig, left_out: LeftOut | None = None
) -> list[RowGroup]:
    """Return the table's row groups; only its footer is read.

    With `left_out` the table stands beside a tar of the same name. If it has no bytes of images, it holds the tar's
    labels: it is counted there, and has no row groups. ConfigError if it is not a Parquet file, or has no column of
    images; TransientError if it changed since it was listed, or the storage failed.
    """
    name = root.describe(file.path)
    with root.open_listed(file, window_bytes=_FOOTER_BYTES) as stream:
        try:
            table = pq.ParquetFile(stream, pre_buffer=False)
            schema = table.schema_arrow
            found = (table.metadata.row_group(group) for group in range(table.num_row_groups))
            # The size is that of all columns, because pyarrow crashes if a damaged footer is asked for one column.
            groups = [(int(group.num_rows), int(group.total_byte_size)) for group in found]
        except Exception as error:  # a hostile footer; other errors are raised again
            if not is_damage(error):
                raise
            shown = " ".join(str(error).split())[:_SHOWN_LETTERS]
            raise ConfigError(
                f"{name} cannot be read as Parquet ({shown}): repair it, or remove it from SOURCE"
            ) from error
    column = _image_column(schema, config)
    if left_out is not None and (column is None or column.kind == "uri"):
        left_out.num_tables += 1
        return []
    column = column or find_column(schema, config, name)
    # A footer may claim any number of rows, each of which becomes a plan entry, so more rows than bytes are refused.
    counts, total = [num_rows for num_rows, _ in groups], table.metadata.num_rows
    limit = total if file.size_bytes is None else file.size_bytes
    if min(counts, default=0) < 0 or sum(counts) != total or total > limit:
        raise ConfigError(
            f"{name} cannot be read as Parquet: its footer claims {total:,} rows in all, {sum(counts):,} in its row "
            f"groups, in {limit:,} bytes: repair it, or remove it from SOURCE"
        )
    if column.kind == "uri":
        return [RowGroup(num_rows) for num_rows in counts]
    # The uncompressed size of a row group is used, because encoded images do not shrink when they are compressed.
    means = (max(0, size_bytes) // max(1, num_rows) for num_rows, size_bytes in groups)
    return [
        RowGroup(num_rows, mean if file.size_bytes is None else min(mean, file.size_bytes))
        for num_rows, mean in zip(counts, means, strict=True)
    ]


def rows_of(file: StoredFile, groups: Sequence[RowGroup]) -> Iterator[SourceItem]:
    """Yield the rows of a table of these row groups."""
    row = 0
    for number, group in enumerate(groups):
        for _ in range(group.num_rows):
            yield SourceItem(
                key=row_key(file.path, row),
                etag=file.etag,
                mtime_ns=file.mtime_ns,
                row_group=number,
                row=row,
                boundary=f"{path_key(file.path)}#{number}",
                mean_bytes=group.mean_bytes,
            )
            row += 1


def find_column(schema: pa.Schema, config: SourceConfig, table: str) -> ImageColumn:
    """Return the first of the config's columns that the schema has of a suitable type; ConfigError if there is none."""
    found = _image_column(schema, config)
    if found is not None:
        return found
    fields = (schema.field(index) for index in range(min(len(schema), _SHOWN_COLUMNS)))
    columns = ", ".join(f"{field.name[:_SHOWN_LETTERS]}: {str(field.type)[:_SHOWN_LETTERS]}" for field in fields)
    raise ConfigError(
        f"{table} has no column of images: expected bytes or {{bytes, path}} in {', '.join(config.bytes_columns)} or "
        f"uris in {', '.join(config.uri_columns)}, found {columns}. Name your column with --set "
        "source.bytes_columns='[name]' or source.uri_columns='[name]', or skip tables with source.format=files"
    )


def _image_column(schema: pa.Schema, config: SourceConfig) -> ImageColumn | None:
    # A name that several columns share is ambiguous, so it is ignored.
    names = [name for name in schema.names if schema.names.count(name) == 1]
    for name in config.bytes_columns:
        kind = schema.field(name).type if name in names else None
        if kind is not None and _is_binary(kind):
            return ImageColumn(name, "bytes")
        if (
            kind is not None
            and pa.types.is_struct(kind)
            and any(field.name == "bytes" and _is_binary(field.type) for field in kind)
        ):
            return ImageColumn(name, "struct")
    for name in config.uri_columns:
        if name in names and _is_text(schema.field(name).type):
            return ImageColumn(name, "uri")
    return None


def read_rows(
    stream: BinaryIO, row_group: int, *, rows: Collection[int], config: SourceConfig, max_bytes: int, table: str
) -> Iterator[tuple[int, RowImage | ImageError]]:
    """Yield (row, image) for the wanted rows of one row group, in order; for an image that is too large, its error.

    Whatever the file claims, at most one page that `WatchedPages` accepts is unpacked at once, besides a dictionary and
    one image. Rows are counted over the whole file; `table` is its path, for messages.

    Raises:
        ImageError: `corrupt` if the row group cannot be decoded; `too_many_bytes` if one of its pages is a bomb, or
            holds images that are too large on average. No image of that page or after it is read.
        MemoryError: The machine has too little memory; the table is not to blame.
    """
    wanted_rows, last = frozenset(rows), max(rows, default=-1)
    try:
        pages = WatchedPages(stream, max_bytes)
        parquet = pq.ParquetFile(pages, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        column = find_column(parquet.schema_arrow, config, table)
        row = sum(parquet.metadata.row_group(group).num_rows for group in range(row_group))
        size = _URIS_AT_ONCE if column.kind == "uri" else _IMAGES_AT_ONCE
        # Only these two fields of a struct are decoded, because other fields may hold anything.
        leaves = [f"{column.name}.bytes", f"{column.name}.path"] if column.kind == "struct" else [column.name]
        pages.watch()
        for batch in parquet.iter_batches(size, row_groups=[row_group], columns=leaves, use_threads=False):
            wanted = [index for index in range(batch.num_rows) if row + index in wanted_rows]
            yield from ((row + index, _row_image(batch.column(0)[index], column, max_bytes)) for index in wanted)
            row += batch.num_rows
            if row > last:
                return
    except Exception as error:  # hostile pages; other errors are raised again
        if not is_damage(error):
            raise
        raise ImageError(
            "corrupt", f"its row group of the Parquet file cannot be decoded ({type(error).__name__})"
        ) from error


def _row_image(value: pa.Scalar, column: ImageColumn, max_bytes: int) -> RowImage | ImageError:
    if not value.is_valid:
        return RowImage(None, None)
    fields = value.type.names if column.kind == "struct" else ()
    values = [value[name] if name in fields else None for name in ("bytes", "path")] if fields else [value]
    values = [each.value if isinstance(each, pa.DictionaryScalar) and each.is_valid else each for each in values]
    values = [each if each is not None and (_is_binary(each.type) or _is_text(each.type)) else None for each in values]
    buffers = [each.as_buffer() if each is not None and each.is_valid else None for each in values]
    # The size is checked before a value is copied to Python, because a row may hold gigabytes.
    size_bytes = max(0 if each is None else int(each.size) for each in buffers)
    if size_bytes > max_bytes:
        return too_many_bytes(size_bytes, max_bytes)
    found: list[Any] = [None if each is None else each.to_pybytes() for each in buffers]
    for at, value in enumerate(values):
        if found[at] is not None and _is_text(value.type):
            # Bytes that are not UTF-8 become surrogate escapes, as in paths: such a row must not fail the others.
            found[at] = found[at].decode("utf-8", "surrogateescape")
    if column.kind == "struct":
        return RowImage(*found)
    return RowImage(found[0], None) if column.kind == "bytes" else RowImage(None, found[0])


def _is_binary(kind: pa.DataType) -> bool:
    # The type of the values counts, because pandas and DuckDB write categories as a dictionary column.
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
