"""An object of an S3 store as a seekable file of one version: ranged requests on the condition of its etag."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from pseudoris.store.files.s3_bucket import S3Bucket

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Of a Parquet file, the footer lies in there nearly always, and the size of the whole comes with it.
_TAIL_BYTES: Final = 64 * 2**10


class S3Reader(io.RawIOBase):
    """The object for reading; nothing is asked before the first read.

    Two windows of it are kept: the one read last, and the tail. A read within them costs no request, any
    other costs one, of `window_bytes` or of what was asked for if that is more.

    Raises on reading, besides the errors of `S3Bucket.get`:
        ChangedError: It is not the version it was at the first read, or not the one that was asked for.
    """

    def __init__(
        self, bucket: S3Bucket, key: str, *, etag: str | None = None, size: int | None = None, window_bytes: int = 0
    ) -> None:
        """Wire it; `etag` and `size` are the planned ones, or are learnt from the first answer."""
        super().__init__()
        self._bucket = bucket
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
        """Return where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset; from the end the object's size is asked for where it is not known."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = (self._end() if base is None else base) + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into `buffer`, as much as fits; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return the rest."""
        return self.read(-1)

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end alone; the rest where it is negative or None."""
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
        found = self._bucket.get(self._key, etag=self._etag, start=self._position, length=length)
        if found.data or self._position == 0:
            self._etag, self._size = found.etag or self._etag, found.size_bytes
        if length == size:
            return found.data
        self._window = (self._position, found.data)
        return found.data[:size]

    def _end(self) -> int:
        if self._size is None:
            found = self._bucket.get(self._key, etag=self._etag, start=-_TAIL_BYTES)
            self._etag, self._size = found.etag or self._etag, found.size_bytes
            self._tail = (found.size_bytes - len(found.data), found.data)
        return self._size
