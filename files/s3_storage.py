"""Storage below a prefix of an S3 bucket, opened by `location`.

A creation must carry its condition (`If-None-Match: *`), and a planned object must be read by its etag: commits and
reads are safe only by that. A reader is a seekable file of one version, read by ranges.
"""

from __future__ import annotations

import errno
import io
import logging
import mmap
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, Self, cast

from botocore.exceptions import ClientError

from pseudoris.files.s3_client import Course, etag_of
from pseudoris.files.s3_listing import walk_bucket
from pseudoris.files.s3_requests import S3Requests, code_of, is_transient, status_of
from pseudoris.files.storage import (
    ANY_PATH,
    OTHER_ETAG,
    ChangedError,
    Kind,
    ListedFile,
    Mark,
    MayDescend,
    Storage,
    StoredFile,
    Upload,
    listing_errors,
    refuse_change,
)
from pseudoris.primitives.errors import ImageError, TransientError
from pseudoris.schemas.config import StorageConfig

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

# The first read at an object's end has this many bytes: nearly always, they hold the whole Parquet footer.
_TAIL_BYTES: Final = 64 * 2**10
_PARTS_AT_ONCE: Final = 4
# Larger objects are sent in parts of this size, each retried separately, so that a part is sent within the time limit
# of a request over a slow line too. S3 accepts no part below 5 MiB.
MULTIPART_BYTES: Final = 64 * 2**20
# S3 allows at most this many parts in an upload.
MAX_PARTS: Final = 10_000
# An upload is tried at most this many times, because gc may abort the upload of a writer that is slow.
_MAX_UPLOADS: Final = 3
_AUTHOR: Final = "pseudoris-author"
# Holds the number and etag of each part of an upload, which the store requires to complete the upload.
Parts = list[dict[str, Any]]
# Files with these suffixes get a content type, so that a browser shows them instead of downloading them.
_CONTENT_TYPES: Final = {".html": "text/html; charset=utf-8", ".webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class S3Storage(S3Requests, Storage):
    """A prefix of a bucket, without a slash at its end; empty for the whole bucket.

    Every operation raises `TransientError` if the store gave no useful answer for `patience_s`; `ConfigError` for what
    the user must correct; FileNotFoundError, PermissionError and `ChangedError` for answers of the store; else OSError.
    """

    max_readers: ClassVar[int] = 16

    prefix: str = ""

    @classmethod
    def at(cls, uri: str, endpoint_url: str | None, limits: StorageConfig, *, requester_pays: bool = False) -> Self:
        """Return the storage at `s3://bucket/prefix`; no request is made yet."""
        name, _, prefix = uri.partition("://")[2].partition("/")
        return cls(name, endpoint_url, limits, requester_pays, prefix.strip("/"))

    def uri(self, path: str = "") -> str:
        """Return the object's uri, `s3://bucket/prefix/…`."""
        return self.address(self._key(path)).rstrip("/")

    def kind(self, path: str) -> Kind:
        """Return the kind of `path`; a folder is a prefix with objects below it, or the bucket itself."""
        prefix = self._prefix(path)
        if self.request("list", prefix, "list_objects_v2", Prefix=prefix, MaxKeys=1).get("Contents") or not prefix:
            return "folder"
        return None if self._head(self._key(path)) is None else "file"

    def stat(self, path: str) -> StoredFile:
        """Return the object's present state; one request."""
        found = self._head(self._key(path))
        if found is None:
            raise FileNotFoundError(path)
        return StoredFile(path, found["ContentLength"], etag=etag_of(found))

    def read(self, path: str) -> bytes:
        """Return the whole object, from one request."""
        return self.get(self._key(path)).data

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the object for ranged reads of one version; the first read makes the first request."""
        return cast("BinaryIO", S3Reader(self, self._key(path), window_bytes=window_bytes))

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version: every request requires its etag."""
        if expected.size_bytes == 0:
            # A read of an empty object makes no request, so its version is checked here.
            refuse_change(self.stat(path), expected)
        reader = S3Reader(
            self, self._key(path), etag=expected.etag, size=expected.size_bytes, window_bytes=window_bytes
        )
        try:
            yield cast("BinaryIO", reader)
        except ChangedError:
            raise ImageError("changed", OTHER_ETAG) from None

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the objects directly below `folder`, in pages: one request per thousand."""
        prefix = self._prefix(folder)
        for objects, _ in self.pages(prefix + name_prefix, delimiter="/"):
            for each in objects:
                if each["Key"] != prefix:
                    yield ListedFile(each["Key"][len(prefix) :], each["Size"], each["LastModified"].timestamp())

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the names of the prefixes directly below `folder`, in pages."""
        prefix = self._prefix(folder)
        for _, prefixes in self.pages(prefix, delimiter="/"):
            for each in prefixes:
                yield each[len(prefix) :].rstrip("/"), "a folder"

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys, once all are listed; memory does not grow with their number."""
        with listing_errors("list", self.uri(), faults=self.faults):
            yield from walk_bucket(self, self.prefix, may_descend, exclude, mark)

    def list_uploads(self, paths: re.Pattern[str] = ANY_PATH) -> Iterator[Upload]:
        """Yield the incomplete multipart uploads of files whose whole path matches `paths`."""
        below = self._prefix("")
        course, where, known = Course(self.address(below)), {"Prefix": below}, set[str]()
        while True:
            answer = self.request("list uploads of", below, "list_multipart_uploads", **where)
            found = {entry["UploadId"]: entry for entry in answer.all("Uploads") if entry["UploadId"] not in known}
            known.update(found)
            course.count(len(found))
            for name, entry in found.items():
                if paths.fullmatch(entry["Key"][len(below) :]):
                    yield Upload(entry["Key"], name, entry["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            where |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort_upload(self, upload: Upload) -> None:
        """Abort the upload; do nothing if it is gone."""
        with suppress(FileNotFoundError):
            self.request("abort", upload.key, "abort_multipart_upload", Key=upload.key, UploadId=upload.upload_id)

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the object if there is none; of all callers ever, one gets True.

        This is exact even if a request was carried out but its answer was lost, or was 409: each call signs its object
        with a nonce, and checks whose object exists.
        """
        key, author = self._key(path), secrets.token_hex(16)

        def attempt() -> bool:
            try:
                self._write(key, data, author, {"IfNoneMatch": "*"})
            except ClientError as error:
                if status_of(error) != 412:
                    raise
                # The object may be our own, because aiohttp silently repeats a PUT if a kept-alive connection breaks.
                return self._author(key) == author
            return True

        return bool(self.with_retries("create", key, attempt))

    def put(self, path: str, data: bytes | mmap.mmap) -> None:
        """Write the object, replacing an existing one; it appears complete."""
        key = self._key(path)
        self.with_retries("write", key, lambda: self._write(key, data, secrets.token_hex(16), {}))

    def put_file(self, path: str, local: Path) -> None:
        """Write the object from a file on this disk. Of a large file, memory only holds the few parts in transit."""
        with local.open("rb") as file:
            if local.stat().st_size <= MULTIPART_BYTES:
                self.put(path, file.read())
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                self.put(path, mapped)

    def delete(self, path: str) -> None:
        """Delete the object; do nothing if there is none."""
        self.request("delete", self._key(path), "delete_object", Key=self._key(path))

    def _key(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, path)))

    def _prefix(self, folder: str) -> str:
        key = self._key(folder)
        return f"{key}/" if key else ""

    def _head(self, key: str) -> dict[str, Any] | None:
        """Return the store's description of the object without its bytes, None if there is none; one request."""
        with suppress(FileNotFoundError):
            return cast("dict[str, Any]", self.request("look at", key, "head_object", Key=key))
        return None

    def _author(self, key: str) -> str | None:
        """Return the nonce of the call that created the object."""
        author = (self._head(key) or {}).get("Metadata", {}).get(_AUTHOR)
        return None if author is None else str(author)

    def _write(self, key: str, data: bytes | mmap.mmap, author: str, condition: dict[str, str]) -> None:
        """Write the object; the last request is sent once, and errors are the client's own."""
        kind = _CONTENT_TYPES.get(PurePosixPath(key).suffix)
        described = {"Metadata": {_AUTHOR: author}, **({"ContentType": kind} if kind else {})}
        if len(data) <= MULTIPART_BYTES:
            self.send(lambda: self.call("put_object", Key=key, Body=data, **described, **condition))
            return
        for _ in range(_MAX_UPLOADS):
            begun = self.request("write", key, "create_multipart_upload", Key=key, **described)
            upload = Upload(key, begun["UploadId"], 0.0)
            try:
                self._complete(upload, self._upload_parts(upload, data), author, condition)
                return
            except BaseException as error:
                self._abandon(upload)
                if not isinstance(error, FileNotFoundError) and code_of(error) != "NoSuchUpload":
                    raise
        raise OSError(errno.EAGAIN, f"its upload was aborted {_MAX_UPLOADS} times", self.address(key))

    def _upload_parts(self, upload: Upload, data: bytes | mmap.mmap) -> Parts:
        size_bytes = max(MULTIPART_BYTES, -(-len(data) // MAX_PARTS))

        def upload_part(number: int) -> dict[str, Any]:
            body = data[(number - 1) * size_bytes : number * size_bytes]
            arguments = {"Key": upload.key, "UploadId": upload.upload_id, "PartNumber": number, "Body": body}
            sent = self.request("write", upload.key, "upload_part", **arguments)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            return [*pool.map(upload_part, range(1, -(-len(data) // size_bytes) + 1))]

    def _complete(self, upload: Upload, parts: Parts, author: str, condition: dict[str, str]) -> None:
        arguments = {"Key": upload.key, "UploadId": upload.upload_id, "MultipartUpload": {"Parts": parts}, **condition}

        def attempt() -> None:
            try:
                self.send(lambda: self.call("complete_multipart_upload", **arguments))
            except ClientError as error:
                # If an earlier completion succeeded and its answer was lost, the object has our author.
                if code_of(error) != "NoSuchUpload" or self._author(upload.key) != author:
                    raise

        # A 409 is not retried here: S3 then requires all parts again, so the caller repeats the upload.
        retry = self.retrying("write", upload.key, lambda error: is_transient(error) and status_of(error) != 409)
        retry(attempt)

    def _abandon(self, upload: Upload) -> None:
        try:
            self.abort_upload(upload)
        except (TransientError, OSError) as error:
            logger.warning("Could not abort an upload of %s; gc will abort it: %s", self.address(upload.key), error)


class S3Reader(io.RawIOBase):
    """An object opened for reading. No request is made before the first read or the first seek from the end.

    The last window and the tail of the object are kept in memory; a read inside them needs no request. Any other read
    makes one request, for `window_bytes` or for the size of the read if that is larger. Reading raises as
    `S3Requests.get`, and `ChangedError` for another version than the planned one, or than that of the first read.
    """

    def __init__(
        self, requests: S3Requests, key: str, *, etag: str | None = None, size: int | None = None, window_bytes: int = 0
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
