"""Objects below a prefix of an S3 bucket: created only if absent, read only with the expected etag.

A reader is a seekable file of one version of an object. It makes ranged requests that require the expected etag.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self, cast

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ImageError
from pseudoris.store.files.s3_bucket import S3Bucket
from pseudoris.store.files.s3_listing import walk_bucket
from pseudoris.store.files.storage import (
    OTHER_ETAG,
    ChangedError,
    Kind,
    ListedFile,
    Mark,
    MayDescend,
    StoredFile,
    Upload,
    listing_errors,
    refuse_change,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Nearly always holds the footer of a Parquet file. The answer also gives the size of the object.
_TAIL_BYTES: Final = 64 * 2**10


class S3Reader(io.RawIOBase):
    """An object opened for reading. No request is made before the first read or the first seek from the end.

    Two windows of the object are kept in memory: the last one fetched, and the tail. A read inside them needs no
    request. Any other read makes one request, for `window_bytes` or for the size of the read if that is larger.

    Raises on reading, besides the errors of `S3Bucket.get`:
        ChangedError: The object is not the planned version, or has changed since the first read.
    """

    def __init__(
        self, bucket: S3Bucket, key: str, *, etag: str | None = None, size: int | None = None, window_bytes: int = 0
    ) -> None:
        """Set the planned `etag` and `size`; those that are None are taken from the first answer."""
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


@dataclass(frozen=True, slots=True)
class S3Storage:
    """A prefix of a bucket, as `Storage` describes it.

    Attributes:
        bucket: The bucket.
        prefix: Without a slash at its end; empty for the bucket as a whole.
        faults: Exceptions on reading that are not the fault of an object.
        max_readers: How many objects to read at once.
    """

    bucket: S3Bucket
    prefix: str
    faults: tuple[type[Exception], ...] = (Exception,)
    max_readers: int = 16

    @classmethod
    def at(cls, uri: str, endpoint_url: str | None, limits: StorageConfig, *, requester_pays: bool = False) -> Self:
        """Return the storage at `s3://bucket/prefix`; no request is made yet."""
        name, _, prefix = uri.partition("://")[2].partition("/")
        return cls(S3Bucket(name, endpoint_url, limits, requester_pays), prefix.strip("/"))

    def uri(self, path: str = "") -> str:
        """Return the object's uri, `s3://bucket/prefix/…`."""
        return self.bucket.uri(self._key(path)).rstrip("/")

    def kind(self, path: str) -> Kind:
        """Return the kind of `path`; a folder is a prefix with objects below it, or the bucket itself."""
        key = self._key(path)
        if self.bucket.has_any(f"{key}/" if key else "") or not key:
            return "folder"
        return None if self.bucket.head(key) is None else "file"

    def stat(self, path: str) -> StoredFile:
        """Return the object's present state; one request."""
        found = self.bucket.head(self._key(path))
        if found is None:
            raise FileNotFoundError(path)
        return StoredFile(path, found.size_bytes, etag=found.etag)

    def read(self, path: str) -> bytes:
        """Return the whole object, from one request."""
        return self.bucket.get(self._key(path)).data

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the object for ranged reads of one version; the first read makes the first request."""
        return cast("BinaryIO", S3Reader(self.bucket, self._key(path), window_bytes=window_bytes))

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version: every request requires its etag."""
        if expected.size_bytes == 0:
            # No byte would be requested, so the version would not be checked.
            refuse_change(self.stat(path), expected)
        reader = S3Reader(
            self.bucket, self._key(path), etag=expected.etag, size=expected.size_bytes, window_bytes=window_bytes
        )
        try:
            yield cast("BinaryIO", reader)
        except ChangedError:
            raise ImageError("changed", OTHER_ETAG) from None

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, in pages: one request per thousand."""
        prefix = f"{self._key(folder)}/".lstrip("/")
        for page in self.bucket.pages(prefix + name_prefix, delimiter="/"):
            for each in page.objects:
                if each.key != prefix:
                    yield ListedFile(each.key[len(prefix) :], each.size_bytes, each.modified_s)

    def obstacle(self, path: str) -> None:
        """Return None: a bucket holds only objects."""

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the names of the prefixes directly below `folder`, in pages."""
        prefix = f"{self._key(folder)}/".lstrip("/")
        for page in self.bucket.pages(prefix, delimiter="/"):
            for each in page.prefixes:
                yield each[len(prefix) :].rstrip("/"), "a folder"

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys, once all are listed; memory does not grow with their number."""
        with listing_errors("list", self.uri(), faults=self.faults):
            yield from walk_bucket(self.bucket, self.prefix, may_descend, exclude, mark)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield nothing: an unfinished put leaves no object, only an upload."""
        yield from ()

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield the incomplete multipart uploads of files whose whole path matches `paths`."""
        below = f"{self.prefix}/".lstrip("/")
        for upload in self.bucket.uploads(below):
            if paths.fullmatch(upload.key[len(below) :]):
                yield upload

    def abort_upload(self, upload: Upload) -> None:
        """Abort the upload; do nothing if it is gone."""
        self.bucket.abort(upload)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object; False if another writer's exists."""
        return self.bucket.create(self._key(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Write the object, replacing an existing one."""
        self.bucket.put(self._key(path), data)

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a file on this disk, in parts if it is large."""
        self.bucket.put_file(self._key(path), local)

    def temporary_path(self, path: str) -> Path | None:
        """Return None: `put_file` copies."""
        return None

    def delete(self, path: str) -> None:
        """Delete the object; do nothing if there is none."""
        self.bucket.delete(self._key(path))

    def _key(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, path)))
