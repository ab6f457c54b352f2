"""Files of many images: lists a tar's members and a Parquet table's rows for plans, reads rows for `planned_images`.

For `store/sources` and `pipeline`. Both are untrusted. A tar's memory must be bounded by one header, and a damaged tar
must be refused, never listed in part. A table's footer may claim anything, its pages may be bombs. At most one checked
page is unpacked at once, and every fault becomes an error of the table or of its images.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, BinaryIO, Final, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.files.key_order import member_key, path_key, row_key
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
# A read of headers has this many bytes, enough for the small members before the next image and its header.
_WINDOW_BYTES: Final = 32 * 2**10
# The bytes behind the end of a tar are searched in pieces of at most this many bytes.
_CHUNK_BYTES: Final = 2**20
# A header with more bytes is refused, because it may claim exabytes. Those of real files have at most 64 KiB.
_MAX_HEADER_BYTES: Final = 2**20
# A tar may have at most this many global settings, because tarfile copies them to each member that follows.
_MAX_GLOBAL_SETTINGS: Final = 1_000
_HOSTILE: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError)


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
    rows = count()
    for number, group in enumerate(groups):
        for row in islice(rows, group.num_rows):
            yield SourceItem(
                key=row_key(file.path, row),
                etag=file.etag,
                mtime_ns=file.mtime_ns,
                row_group=number,
                row=row,
                boundary=f"{path_key(file.path)}#{number}",
                mean_bytes=group.mean_bytes,
            )


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
        kind = schema.field(name).type if name in names else pa.null()
        if _is_binary(kind):
            return ImageColumn(name, "bytes")
        if pa.types.is_struct(kind) and any(field.name == "bytes" and _is_binary(field.type) for field in kind):
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
    # Of a row's bytes and its uri, a column that is no struct has one.
    values = [value, None] if column.kind == "bytes" else [None, value]
    if column.kind == "struct":
        values = [value[name] if name in value.type.names else None for name in ("bytes", "path")]
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
    return RowImage(*found)


def _is_binary(kind: pa.DataType) -> bool:
    # The type of the values counts, because pandas and DuckDB write categories as a dictionary column.
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def list_members(
    root: SourceRoot, file: StoredFile, config: SourceConfig, left_out: LeftOut | None = None
) -> Iterator[SourceItem]:
    """Yield the tar's image members in the tar's order, which is the order of reading them.

    Links, devices, sparse members and hidden names are skipped; other images that are not listed are counted in
    `left_out`. A member's name is part of a key and never used as a path: `../x.jpg` is allowed. From a tar in a bucket
    only headers are fetched, by windows of 32 KiB. Tars that were written behind one another are all listed.
    ConfigError if the tar is truncated, damaged, compressed or malicious, or other bytes follow it; TransientError if
    it changed since it was listed.
    """
    with root.open_listed(file, window_bytes=_WINDOW_BYTES) as stream:
        try:
            for member in _members(stream):
                name = posixpath.basename(member.name)
                is_plain = member.isreg() and not member.issparse() and not name.startswith(".")
                if is_plain and name.lower().endswith(config.extensions):
                    end = member.offset_data + member.size
                    # The member's size is compared with the tar's size, because an extended header may claim any size.
                    if member.size < 0 or (file.size_bytes is not None and end > file.size_bytes):
                        at = f"at byte {member.offset_data:,} of the tar"
                        raise tarfile.ReadError(f"a member of {member.size:,} bytes {at}")
                    yield SourceItem(
                        key=member_key(file.path, member.name),
                        size_bytes=member.size,
                        etag=file.etag,
                        mtime_ns=file.mtime_ns,
                        offset_bytes=member.offset_data,
                        boundary=path_key(file.path),
                    )
                elif left_out is not None and member.isreg():
                    left_out.count_member(member.name)
        except _HOSTILE as error:
            raise ConfigError(_damage(root, file, str(error))) from error
    # If the last header is truncated, tarfile raises no error, but the file's size is no multiple of a block.
    if file.size_bytes is not None and file.size_bytes % tarfile.BLOCKSIZE:
        raise ConfigError(_damage(root, file, "its size is not a multiple of 512 bytes"))


class _Headers:
    """A tar for tarfile to read: only headers, and none of an absurd size."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; a read allocates its memory before it knows whether the bytes exist."""
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes, at most {_MAX_HEADER_BYTES:,} are allowed")
        return self._stream.read(size)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, and of the tars behind its end marker."""
    headers = cast("BinaryIO", _Headers(stream))
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        # `r:` refuses compressed tars, because a single member of such a tar cannot be read alone.
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            end = start
            while (member := tar.next()) is not None:
                # The offset must grow: a member of negative size would lead back to an earlier header, in a loop.
                if tar.offset <= end:
                    raise tarfile.ReadError(f"the member after byte {end:,} ends before it begins")
                if len(tar.pax_headers) > _MAX_GLOBAL_SETTINGS:
                    raise tarfile.ReadError(
                        f"more than the {_MAX_GLOBAL_SETTINGS:,} allowed global settings before byte {tar.offset:,}"
                    )
                end = tar.offset
                yield member
                # `members` is emptied, because tarfile keeps every header in it: millions for a large tar.
                tar.members = []  # type: ignore[attr-defined]
            end = tar.offset
        # tarfile stops at a damaged header, so the bytes behind its end are searched for lost members.
        following = _next_content(stream, end)
        if following == end and end > start:
            raise tarfile.ReadError(f"the header at byte {end:,} is damaged")
        if following == start:
            num_bytes = stream.seek(0, io.SEEK_END) - start
            raise tarfile.ReadError(f"{num_bytes:,} bytes behind its end marker, from byte {start:,}, are no tar")
        start = following


def _next_content(stream: BinaryIO, start: int) -> int | None:
    """Return the offset of the first block from `start` on that holds more than zeros; None if there is none."""
    stream.seek(start)
    # The first read is small, because most tars have only a few KiB of zeros at their end.
    size_bytes = 2 * tarfile.BLOCKSIZE
    while chunk := stream.read(size_bytes):
        rest = chunk.lstrip(b"\0")
        if rest:
            num_zeros = len(chunk) - len(rest)
            return start + num_zeros - num_zeros % tarfile.BLOCKSIZE
        start, size_bytes = start + len(chunk), min(4 * size_bytes, _CHUNK_BYTES)
    return None


def _damage(root: SourceRoot, file: StoredFile, reason: str) -> str:
    return (
        f"{root.describe(file.path)} cannot be listed as a tar ({reason}): it must be complete and not compressed. "
        "Repair it, or remove it from SOURCE"
    )
