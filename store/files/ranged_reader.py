"""A seekable file of one version of an object, read by ranged requests: of S3 and of the Hub."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from pseudoris.schemas.errors import ImageError
from pseudoris.store.files.storage import OTHER_ETAG, ChangedError, StoredFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Nearly always holds the footer of a Parquet file. The answer also gives the size of the object.
_TAIL_BYTES: Final = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Fetched:
    """The requested bytes of an object, and the size and etag of the whole object."""

    data: bytes
    size_bytes: int
    etag: str


class RangedRequests(Protocol):
    """What gives a range of an object."""

    def get(self, key: str, *, etag: str | None = None, start: int = 0, length: int | None = None) -> Fetched:
        """Return bytes of the object, from one request unless it breaks; fewer if the object ends earlier.

        Args:
            key: Of the object.
            etag: The version that must be read; `ChangedError` if it has another.
            start: First byte; negative counts from the end, and `length` is then not used.
            length: How many bytes; to the end by default.
        """


@contextmanager
def open_version(
    requests: RangedRequests, key: str, expected: StoredFile, *, window_bytes: int = 0
) -> Iterator[BinaryIO]:
    """Open the expected version of an object for a block: every request requires its etag."""
    reader = RangedReader(requests, key, etag=expected.etag, size=expected.size_bytes, window_bytes=window_bytes)
    try:
        yield cast("BinaryIO", reader)
    except ChangedError:
        raise ImageError("changed", OTHER_ETAG) from None


class RangedReader(io.RawIOBase):
    """An object opened for reading. No request is made before the first read or the first seek from the end.

    Two windows of the object are kept in memory: the last one fetched, and the tail. A read inside them needs no
    request. Any other read makes one request, for `window_bytes` or for the size of the read if that is larger.

    Raises on reading, besides the errors of `RangedRequests.get`:
        ChangedError: The object is not the planned version, or has changed since the first read.
    """

    def __init__(
        self,
        requests: RangedRequests,
        key: str,
        *,
        etag: str | None = None,
        size: int | None = None,
        window_bytes: int = 0,
    ) -> None:
        """Set the planned `etag` and `size`; those that are None are taken from the first answer."""
        super().__init__()
        self._requests = requests
        self._key = key
        self._etag = etag
        self._size = size
        self._window_bytes = window_bytes
        self._position = 0
        self._window = (0, b"")
        self._tail = (0, b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset. From the end, this requests the object's size if it is unknown."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = (self._end() if base is None else base) + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return all remaining bytes."""
        return self.read(-1)

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, fewer only at the end; all remaining bytes if `size` is negative or None."""
        if size is None or size < 0:
            size = None if self._size is None else max(0, self._size - self._position)
        data = self._kept(size) if size is not None else None
        if data is None:
            data = self._fetch(size)
        self._position += len(data)
        return data

    def _kept(self, size: int) -> bytes | None:
        end = self._position + size if self._size is None else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        for start, data in (self._window, self._tail):
            if start <= self._position and end <= start + len(data):
                return data[self._position - start : end - start]
        return None

    def _fetch(self, size: int | None) -> bytes:
        length = None if size is None else max(size, self._window_bytes)
        found = self._requests.get(self._key, etag=self._etag, start=self._position, length=length)
        if found.data or self._position == 0:
            self._etag, self._size = found.etag or self._etag, found.size_bytes
        if length == size:
            return found.data
        self._window = (self._position, found.data)
        return found.data[:size]

    def _end(self) -> int:
        if self._size is None:
            found = self._requests.get(self._key, etag=self._etag, start=-_TAIL_BYTES)
            self._etag, self._size = found.etag or self._etag, found.size_bytes
            self._tail = (found.size_bytes - len(found.data), found.data)
        return self._size
