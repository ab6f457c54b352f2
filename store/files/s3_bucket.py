"""One bucket of an S3 store: reads of one version, conditional creation, listings by pages, large files in parts."""

from __future__ import annotations

import errno
import logging
import mmap
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from botocore.exceptions import ClientError

from pseudoris.schemas.errors import TransientError
from pseudoris.store.files.s3_requests import Download, Fetched, S3Requests, code_of, is_transient, status_of
from pseudoris.store.files.storage import Upload

logger = logging.getLogger(__name__)

_PARTS_AT_ONCE: Final = 4
# Larger objects are sent in parts of this size, each retried separately: a part is sent within the time limit of a
# request, also over a slow line. S3 accepts no part below 5 MiB.
MULTIPART_BYTES: Final = 64 * 2**20
# S3's limits of one upload.
_MAX_PARTS: Final = 10_000
# gc aborts an upload that seems abandoned, if its writer was stopped for long: rare, and never often in a row.
_MAX_UPLOADS: Final = 3
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_AUTHOR: Final = "pseudoris-author"
# Files that a browser should show, not download; programs that read parts ignore the type.
_CONTENT_TYPES: Final = {".html": "text/html; charset=utf-8", ".webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing or a HEAD request describes it.

    Attributes:
        key: In its bucket.
        size_bytes: Its size.
        etag: Without quotes.
        modified_s: Seconds since the epoch, by the store's clock.
        is_archived: Whether its class is one whose objects cannot be read before they are restored.
    """

    key: str
    size_bytes: int
    etag: str
    modified_s: float
    is_archived: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: at most 1,000 objects and common prefixes, one request."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]


class S3Bucket(S3Requests):
    """The operations on one bucket.

    Every operation raises `TransientError` if the store gave no useful answer for `patience_s`; `ConfigError` for what
    the user must correct; FileNotFoundError, PermissionError and `ChangedError` for answers of the store; and OSError
    for any other error.
    """

    __slots__ = ()

    def head(self, key: str) -> StoredObject | None:
        """Return the object without its bytes, None if there is none; one request."""
        try:
            found = self.request("look at", key, "head_object", Key=key)
        except FileNotFoundError:
            return None
        return StoredObject(key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def get(self, key: str, *, etag: str | None = None, start: int = 0, length: int | None = None) -> Fetched:
        """Return bytes of the object, from one request unless it breaks; fewer if the object ends earlier.

        With an etag, an interrupted body is continued, not fetched again.

        Args:
            key: Of the object.
            etag: The version that must be read.
            start: First byte; negative counts from the end, and `length` is then not used.
            length: How many bytes; to the end by default.

        Raises:
            FileNotFoundError: There is none.
            ChangedError: It has another etag.
        """
        download = Download(self, key, etag=etag, start=start, length=length)
        fetched: Fetched = self.with_retries("read", key, lambda: self.send(download.attempt))
        return fetched

    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing an existing one; it appears complete."""
        self.with_retries("write", key, lambda: self._write(key, data, secrets.token_hex(16), {}))

    def put_file(self, key: str, path: Path) -> None:
        """Write the object from a file on this disk, replacing an existing one; it appears complete.

        Of a large file, memory only holds the few parts in transit.
        """
        with path.open("rb") as file:
            if path.stat().st_size <= MULTIPART_BYTES:
                self.put(key, file.read())
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                self.with_retries("write", key, lambda: self._write(key, mapped, secrets.token_hex(16), {}))

    def create(self, key: str, data: bytes) -> bool:
        """Create the object if there is none; of all callers ever, one gets True.

        This is exact even if a request was carried out but its answer was lost, or was 409: each call signs its object
        with a nonce, and checks whose object exists.
        """
        author = secrets.token_hex(16)

        def attempt() -> bool:
            try:
                self._write(key, data, author, {"IfNoneMatch": "*"})
            except ClientError as error:
                if status_of(error) != 412:
                    raise
                # Always checked: aiohttp silently repeats a PUT if a kept-alive connection breaks.
                return self._author(key) == author
            return True

        return bool(self.with_retries("create", key, attempt))

    def delete(self, key: str) -> None:
        """Delete the object; do nothing if there is none."""
        self.request("delete", key, "delete_object", Key=key)

    def pages(self, prefix: str, *, delimiter: str = "", start_after: str = "") -> Iterator[Page]:
        """Yield the objects below a prefix, page by page, in the order of their keys' bytes.

        Args:
            prefix: Of all keys listed.
            delimiter: Keys that contain it after the prefix are grouped into `Page.prefixes`.
            start_after: Only keys after this one.
        """
        where: dict[str, str] = {"Prefix": prefix, "Delimiter": delimiter}
        if start_after:
            where["StartAfter"] = start_after
        while True:
            answer = self.request("list", prefix, "list_objects_v2", **where)
            yield Page(
                tuple(_listed(entry) for entry in answer.get("Contents", ())),
                tuple(entry["Prefix"] for entry in answer.get("CommonPrefixes", ())),
            )
            if not answer.get("IsTruncated"):
                return
            where["ContinuationToken"] = answer["NextContinuationToken"]

    def has_any(self, prefix: str) -> bool:
        """Return whether a key begins with `prefix`; one request."""
        answer = self.request("list", prefix, "list_objects_v2", Prefix=prefix, MaxKeys=1)
        return bool(answer.get("Contents"))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the multipart uploads below a prefix that were neither completed nor aborted."""
        where: dict[str, str] = {"Prefix": prefix}
        while True:
            answer = self.request("list uploads of", prefix, "list_multipart_uploads", **where)
            for entry in answer.get("Uploads", ()):
                yield Upload(entry["Key"], entry["UploadId"], entry["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            where |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort(self, upload: Upload) -> None:
        """Abort an upload and free its parts; do nothing if it is gone."""
        try:
            self.request("abort", upload.key, "abort_multipart_upload", Key=upload.key, UploadId=upload.upload_id)
        except FileNotFoundError:
            return

    def _author(self, key: str) -> str | None:
        """Return the nonce of the call that created the object."""
        try:
            found = self.request("look at", key, "head_object", Key=key)
        except FileNotFoundError:
            return None
        author = found.get("Metadata", {}).get(_AUTHOR)
        return None if author is None else str(author)

    def _write(self, key: str, data: bytes | mmap.mmap, author: str, condition: dict[str, str]) -> None:
        """Write the object; the last request is sent once, and errors are the client's own."""
        described = {"Metadata": {_AUTHOR: author}, **_content_type(key)}
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
        raise OSError(errno.EAGAIN, f"its upload was aborted {_MAX_UPLOADS} times", self.uri(key))

    def _upload_parts(self, upload: Upload, data: bytes | mmap.mmap) -> list[dict[str, Any]]:
        size_bytes = max(MULTIPART_BYTES, -(-len(data) // _MAX_PARTS))

        def upload_part(number: int) -> dict[str, Any]:
            body = data[(number - 1) * size_bytes : number * size_bytes]
            arguments = {"Key": upload.key, "UploadId": upload.upload_id, "PartNumber": number, "Body": body}
            sent = self.request("write", upload.key, "upload_part", **arguments)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            return list(pool.map(upload_part, range(1, -(-len(data) // size_bytes) + 1)))

    def _complete(self, upload: Upload, parts: list[dict[str, Any]], author: str, condition: dict[str, str]) -> None:
        arguments = {"Key": upload.key, "UploadId": upload.upload_id, "MultipartUpload": {"Parts": parts}, **condition}

        def attempt() -> None:
            try:
                self.send(lambda: self.call("complete_multipart_upload", **arguments))
            except ClientError as error:
                # A completion that is repeated after its answer was lost finds no such upload.
                if code_of(error) != "NoSuchUpload" or self._author(upload.key) != author:
                    raise

        # After a 409, S3 requires all parts again: the caller does that.
        retry = self.retrying("write", upload.key, lambda error: is_transient(error) and status_of(error) != 409)
        retry(attempt)

    def _abandon(self, upload: Upload) -> None:
        try:
            self.abort(upload)
        except (TransientError, OSError) as error:
            logger.warning("Could not abort an upload of %s; gc will abort it: %s", self.uri(upload.key), error)


def _content_type(key: str) -> dict[str, str]:
    known = _CONTENT_TYPES.get(PurePosixPath(key).suffix)
    return {} if known is None else {"ContentType": known}


def _listed(entry: dict[str, Any]) -> StoredObject:
    return StoredObject(
        entry["Key"],
        entry["Size"],
        entry["ETag"].strip('"'),
        entry["LastModified"].timestamp(),
        entry.get("StorageClass") in _ARCHIVES,
    )
