"""Checks the pages of untrusted Parquet files before Arrow unpacks them: a kilobyte may unpack to gigabytes.

Called by `interchange`, `store`, `training` and `workers` for each table that a user names: sources, priors,
exclusions, predictions. A footer may claim any size, but the header before each page decides how much is unpacked. So
Arrow must get no page whose header was not checked here. No byte is read twice.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.primitives.errors import ConfigError, ImageError

# A page that unpacks to more than this many times its bytes is a bomb, unless it is small: encoded images hardly
# shrink, bitmaps of photographs shrink by half.
_MAX_UNPACKING: Final = 4
# A page may unpack to this many bytes at any ratio. Pages of uris and bitmaps are small, but shrink a hundredfold.
ALWAYS_BYTES: Final = 64 * 2**20
# A page may unpack to this many bytes more than its values, for its lengths and levels.
_SLACK_BYTES: Final = 2**20
# A page header has at most this many bytes, as in Arrow. It may be long, because its statistics may hold two images.
_MAX_HEADER_BYTES: Final = 16 * 2**20
# A page header with more fields, or with more nested levels, is refused. Real headers have about twenty fields.
_MAX_FIELDS: Final = 1_000
_MAX_DEPTH: Final = 16

# A value has at most this many bytes. The run lengths of a mask of 100 megapixels take a fifth of them.
_MAX_VALUE_BYTES: Final = 16 * 2**20
# A file may unpack to this many times its size, because names repeat, or to the bytes below if that is more.
_MAX_TABLE_UNPACKING: Final = 16
TABLE_ALWAYS_BYTES: Final = 256 * 2**20
# At most this many rows are unpacked at once, because each row may repeat a large value of the dictionary.
_ROWS_AT_ONCE: Final = 8

# These are the type codes of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
# Maps a page type (data, dictionary, data version 2) to the number of the header's field that describes the page.
_DETAILS: Final = {0: 5, 2: 7, 3: 8}


@dataclass(frozen=True, slots=True)
class PageHeader:
    """The header of a page: the page's size unpacked and in the file, its number of values, and the header's size.

    `num_values` includes nulls; it is None for a kind of page that has no values.
    """

    unpacked_bytes: int
    packed_bytes: int
    num_values: int | None
    size_bytes: int


class CutShortError(Exception):
    """The header goes on beyond the bytes at hand."""


def parse_page_header(data: bytes) -> PageHeader:
    """Return the page header at the beginning of `data`; CutShortError if it goes on, ValueError if it is none.

    Source: PageHeader in parquet.thrift of apache/parquet-format; numbers are cut to 32 bits as Thrift for C++ does.
    """
    reader = _Compact(data)
    fields = reader.struct()
    kind, unpacked, packed = (fields.get((number,)) for number in (1, 2, 3))
    if kind is None or unpacked is None or packed is None or unpacked < 0 or packed < 0:
        raise ValueError("a page header without a kind or sizes")
    num_values = fields.get((_DETAILS[kind], 1)) if kind in _DETAILS else None
    return PageHeader(unpacked, packed, num_values, reader.at)


class _Compact:
    """A walk over Thrift's compact protocol: keeps the 32-bit numbers of structs by their path of fields."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        self._num_fields = 0
        self._found: dict[tuple[int, ...], int] = {}

    def struct(self, path: tuple[int, ...] = ()) -> dict[tuple[int, ...], int]:
        """Walk over a struct; return all numbers found so far."""
        number = 0
        while head := self._byte():
            number = (number + (head >> 4) if head >> 4 else _signed(self._varint())) & 0xFFFF
            self._value(head & 15, (*path, number))
        return self._found

    def _value(self, kind: int, path: tuple[int, ...], in_list: bool = False) -> None:
        self._num_fields += 1
        if self._num_fields > _MAX_FIELDS or len(path) > _MAX_DEPTH:
            raise ValueError("more fields than a page header has")
        if kind == _I32:
            self._found[path] = _signed(self._varint())
        elif kind in (_I16, _I64):
            self._varint()
        elif kind in (_TRUE, _FALSE):
            self._skip(1 if in_list else 0)
        elif kind in (_BYTE, _DOUBLE):
            self._skip(1 if kind == _BYTE else 8)
        elif kind == _BINARY:
            self._skip(self._varint())
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._value(head & 15, (*path, 0), in_list=True)
        elif kind == _STRUCT:
            self.struct(path)
        else:
            raise ValueError(f"a page header with a value of kind {kind}")

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _skip(self, size: int) -> None:
        if self.at + size > len(self._data):
            raise CutShortError
        self.at += size

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFF_FFFF
        raise ValueError("a number of more than ten bytes")


def _signed(zigzag: int) -> int:
    return (zigzag >> 1) ^ -(zigzag & 1)


class BorrowedFile:
    """A file for Arrow whose `close` does nothing, because Arrow closes every file that it is given."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        """Wrap `stream`, which stays the caller's to close."""
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def close(self) -> None:
        """Leave the file open."""

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end alone; the rest where it is negative or None."""
        return self._stream.read(-1 if size is None else size)


class WatchedPages(BorrowedFile):
    """A Parquet file for Arrow, which must read each column chunk from its beginning and without gaps.

    Reading raises:
        ImageError: `too_many_bytes` if a page would unpack to more than 64 MiB, and either to more than `max_bytes` a
            value or to more than `max_bytes` and four times its bytes; `corrupt` if a page has no sound header.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        """Wrap `stream`; nothing is watched before `watch`."""
        super().__init__(stream)
        self._max_bytes, self._is_watching = max_bytes, False
        self._chunks: list[_Chunk] = []

    def watch(self) -> None:
        """Treat every later read as one of a column chunk; called when the footer is read."""
        self._is_watching = True

    def read(self, size: int | None = -1) -> bytes:
        """Read as `BorrowedFile` does, and check the headers of the pages that the bytes hold."""
        start, data = self.tell(), super().read(size)
        if not self._is_watching or not data:
            return data
        chunks = [chunk for chunk in self._chunks if chunk.read_to == start]
        if not chunks:
            chunks = [_Chunk(start, start, b"")]
            self._chunks += chunks
        for chunk in chunks:
            for header in chunk.headers(data):
                self._check(header)
        return data

    def _check(self, page: PageHeader) -> None:
        limit = max(self._max_bytes + _SLACK_BYTES, _MAX_UNPACKING * page.packed_bytes)
        if page.num_values is not None:
            limit = min(limit, max(1, page.num_values) * self._max_bytes + _SLACK_BYTES)
        limit = max(limit, ALWAYS_BYTES)
        if page.unpacked_bytes > limit:
            raise ImageError(
                "too_many_bytes",
                f"its page of the Parquet file, or one before it, unpacks {page.packed_bytes:,} bytes to "
                f"{page.unpacked_bytes:,}; images.max_bytes ({self._max_bytes:,}) allows it {limit:,}: raise it, or "
                "write the table with smaller pages",
            )


@dataclass(slots=True)
class _Chunk:
    """How far a column chunk has been read, and where its next page begins; `begun` holds a header's first bytes."""

    read_to: int
    header_at: int
    begun: bytes

    def headers(self, data: bytes) -> Iterator[PageHeader]:
        """Take what is read next; yield the headers that are whole with it."""
        start, self.read_to = self.read_to, self.read_to + len(data)
        while self.header_at < self.read_to:
            # If an earlier call ended inside a header, the rest of that header is at the start of `data`.
            rest = self.begun + data if self.begun else data[self.header_at - start :]
            try:
                header = parse_page_header(rest)
            except CutShortError:
                self.begun = rest
                if len(rest) > _MAX_HEADER_BYTES:
                    raise _damaged() from None
                return
            except ValueError:
                raise _damaged() from None
            yield header
            self.begun = b""
            self.header_at += header.size_bytes + header.packed_bytes


def _damaged() -> ImageError:
    return ImageError("corrupt", "the row group of the Parquet file cannot be decoded (a page has a damaged header)")


def read_columns(data: bytes, names: Collection[str], *, where: str) -> pa.Table:
    """Return those of the columns that the file has, in one chunk each; if it has none, its schema without rows.

    `data` is the whole file; `where` names the option and the file in messages.

    Raises:
        ConfigError: It is not Parquet, is damaged, or unpacks to far more than its size.
    """
    pages = WatchedPages(io.BytesIO(data), _MAX_VALUE_BYTES)
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
        batches, left = [], max(TABLE_ALWAYS_BYTES, _MAX_TABLE_UNPACKING * len(data))
        for read in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            # Repeated values of a dictionary are unpacked here, so that `batch.nbytes` counts their bytes.
            columns = [each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in read]
            batch = pa.RecordBatch.from_arrays(columns, names=read.schema.names)
            left -= batch.nbytes
            if left < 0:
                raise ConfigError(
                    f"{where} unpacks {len(data):,} bytes to more than {_MAX_TABLE_UNPACKING} times as many. Write the "
                    "file with one value a row."
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
