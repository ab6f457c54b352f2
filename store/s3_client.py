"""Requests to one bucket of an S3 store: conditional where it matters, tried again with a bound, never without end.

All trying again happens here, once: s3fs and botocore try a request one time. A client that repeats a
conditional request in secret cannot tell its own first try from another writer.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
from botocore.exceptions import ClientError, IncompleteReadError, NoCredentialsError
from fsspec.asyn import sync
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from schemas.errors import ConfigError, TransientError
from schemas.measures import STORAGE_RETRIES, count
from schemas.placement import StorageConfig
from schemas.uris import secret_in
from store.s3_answers import Fetched, Page, StoredObject, Upload
from store.s3_errors import code_of, explained, is_transient, reason_of, status_of

logger = logging.getLogger(__name__)

# Pauses are drawn between 0 and 0.2 s · 2ⁿ: clients that failed together do not come back together.
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 20.0
# A pause that the user would wonder about is told.
_TOLD_AFTER_S: Final = 10.0
_PARTS_AT_ONCE: Final = 4
# Of one upload, by S3's rules.
_MAX_PARTS: Final = 10_000
_BODY_CHUNK_BYTES: Final = 2**20
_AUTHOR: Final = "pseudoris-author"
# What a browser is to show, and not to download; a program that reads a part asks for no type.
_CONTENT_TYPES: Final = {".html": "text/html; charset=utf-8", ".webp": "image/webp"}
_CREDENTIAL_PAUSES_S: Final = (1.0, 4.0)
# In the order in which botocore asks for them.
ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """One bucket. Pickles; connections are made in each process when first needed.

    Every operation raises `TransientError` when the store did not answer usefully for `patience_s`,
    `ConfigError` for what the user must mend, FileNotFoundError, PermissionError and `ChangedError` for
    what the store answered, and OSError for any other refusal.

    Attributes:
        name: Of the bucket.
        endpoint_url: Of another store than AWS; None is what the environment says, else AWS.
        limits: Time-outs, patience, sizes.
    """

    name: str
    endpoint_url: str | None
    limits: StorageConfig

    def __post_init__(self) -> None:
        """Refuse an endpoint of the environment that holds a secret: the client's errors repeat it."""
        for name in ENDPOINT_VARIABLES:
            secret = secret_in(os.environ.get(name, ""))
            if secret is not None:
                raise ConfigError(f"{name}: {secret}")

    def uri(self, key: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.name}/{key}"

    def look(self, key: str) -> StoredObject | None:
        """Return the object without its bytes, None where there is none; one request."""
        try:
            found = self._ask("look at", key, lambda: self._request("head_object", Key=key))
        except FileNotFoundError:
            return None
        return StoredObject(key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def get(self, key: str, *, etag: str | None = None, start: int = 0, length: int | None = None) -> Fetched:
        """Return bytes of the object, from one request unless it breaks; fewer where the object ends before.

        With an etag, a body that breaks off is continued, not fetched anew.

        Args:
            key: Of the object.
            etag: The version that must be read.
            start: First byte; negative counts from the end, and `length` is then not used.
            length: How many bytes; to the end by default.

        Raises:
            FileNotFoundError: There is none.
            ChangedError: It has another etag.
        """
        download = _Download(self, key, etag, start, length)
        fetched: Fetched = self._ask("read", key, download.attempt)
        return fetched

    def put(self, key: str, data: bytes) -> None:
        """Write the object in place of whatever stands there; it appears whole."""
        self._persist("write", key, lambda: self._write(key, data, secrets.token_hex(16), {}))

    def put_file(self, key: str, path: Path) -> None:
        """Write the object from a file of this disk, in place of whatever stands there; it appears whole.

        Of a large file memory holds the few parts that are on their way.
        """
        with path.open("rb") as file:
            if path.stat().st_size <= self.limits.multipart_bytes:
                self.put(key, file.read())
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                self._persist("write", key, lambda: self._write(key, mapped, secrets.token_hex(16), {}))

    def create(self, key: str, data: bytes) -> bool:
        """Create the object where there is none; of all callers ever, one gets True.

        Exact also where a request was carried out and its answer lost, or was 409: each call signs its
        object with a nonce, and looks whose stands.
        """
        author = secrets.token_hex(16)

        def attempt() -> bool:
            try:
                self._write(key, data, author, {"IfNoneMatch": "*"})
            except ClientError as error:
                if status_of(error) != 412:
                    raise
                # Always asked: aiohttp itself sends a PUT again where a kept connection breaks, and tells nobody.
                return self._author(key) == author
            return True

        return bool(self._persist("create", key, attempt))

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens where there is none."""
        self._ask("delete", key, lambda: self._request("delete_object", Key=key))

    def pages(self, prefix: str, *, delimiter: str = "", start_after: str = "") -> Iterator[Page]:
        """Yield the objects below a prefix, page by page, in the order of their keys' bytes.

        Args:
            prefix: Of all keys listed.
            delimiter: Keys that hold it after the prefix are rolled up into `Page.prefixes`.
            start_after: Only keys after this one.
        """
        where: dict[str, str] = {"Prefix": prefix, "Delimiter": delimiter}
        if start_after:
            where["StartAfter"] = start_after

        async def request() -> Any:
            return await self._request("list_objects_v2", **where)

        while True:
            answer = self._ask("list", prefix, request)
            yield Page(
                tuple(_listed(entry) for entry in answer.get("Contents", ())),
                tuple(entry["Prefix"] for entry in answer.get("CommonPrefixes", ())),
            )
            if not answer.get("IsTruncated"):
                return
            where["ContinuationToken"] = answer["NextContinuationToken"]

    def has_any(self, prefix: str) -> bool:
        """Return whether a key begins with `prefix`; one request."""
        answer = self._ask("list", prefix, lambda: self._request("list_objects_v2", Prefix=prefix, MaxKeys=1))
        return bool(answer.get("Contents"))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the multipart uploads below a prefix that were neither completed nor aborted."""
        where: dict[str, str] = {"Prefix": prefix}

        async def request() -> Any:
            return await self._request("list_multipart_uploads", **where)

        while True:
            answer = self._ask("list uploads of", prefix, request)
            for entry in answer.get("Uploads", ()):
                yield Upload(entry["Key"], entry["UploadId"], entry["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            where |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort(self, upload: Upload) -> None:
        """Give up an upload, and free what it holds; nothing happens where it is gone."""
        try:
            request = {"Key": upload.key, "UploadId": upload.upload_id}
            self._ask("abort", upload.key, lambda: self._request("abort_multipart_upload", **request))
        except FileNotFoundError:
            return

    def _author(self, key: str) -> str | None:
        """Return the nonce of the call that created the object."""
        try:
            found = self._ask("look at", key, lambda: self._request("head_object", Key=key))
        except FileNotFoundError:
            return None
        author = found.get("Metadata", {}).get(_AUTHOR)
        return None if author is None else str(author)

    def _is_large(self, data: bytes | mmap.mmap) -> bool:
        return len(data) > self.limits.multipart_bytes

    def _write(self, key: str, data: bytes | mmap.mmap, author: str, condition: dict[str, str]) -> None:
        """Write the object in one try, as far as its last request goes; refusals are the client's own."""
        described = {"Metadata": {_AUTHOR: author}, **_content_type(key)}
        if not self._is_large(data):
            self._once(lambda: self._request("put_object", Key=key, Body=data, **described, **condition))
            return
        begun = self._ask("write", key, lambda: self._request("create_multipart_upload", Key=key, **described))
        upload = Upload(key, begun["UploadId"], 0.0)
        try:
            self._complete(upload, self._upload_parts(upload, data), author, condition)
        except BaseException:
            self._abandon(upload)
            raise

    def _upload_parts(self, upload: Upload, data: bytes | mmap.mmap) -> list[dict[str, Any]]:
        size_bytes = max(self.limits.multipart_bytes, -(-len(data) // _MAX_PARTS))

        def send(number: int) -> dict[str, Any]:
            body = data[(number - 1) * size_bytes : number * size_bytes]
            request = {"Key": upload.key, "UploadId": upload.upload_id, "PartNumber": number, "Body": body}
            sent = self._ask("write", upload.key, lambda: self._request("upload_part", **request))
            return {"PartNumber": number, "ETag": sent["ETag"]}

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            return list(pool.map(send, range(1, -(-len(data) // size_bytes) + 1)))

    def _complete(self, upload: Upload, parts: list[dict[str, Any]], author: str, condition: dict[str, str]) -> None:
        request = {"Key": upload.key, "UploadId": upload.upload_id, "MultipartUpload": {"Parts": parts}, **condition}

        def attempt() -> None:
            try:
                self._once(lambda: self._request("complete_multipart_upload", **request))
            except ClientError as error:
                # Repeated after its answer was lost, a completion finds no such upload any more.
                if code_of(error) != "NoSuchUpload" or self._author(upload.key) != author:
                    raise

        # After a 409 S3 wants all parts anew: that is for the caller.
        tries_again = self._tries("write", upload.key, lambda error: is_transient(error) and status_of(error) != 409)
        tries_again(attempt)

    def _abandon(self, upload: Upload) -> None:
        try:
            self.abort(upload)
        except (TransientError, OSError) as error:
            logger.warning("an unfinished upload of %s stays until gc aborts it: %s", self.uri(upload.key), error)

    def _ask(self, action: str, key: str, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a request that may be made any number of times."""
        return self._persist(action, key, lambda: self._once(request))

    def _persist(self, action: str, key: str, attempt: Callable[[], Any]) -> Any:
        """Return what `attempt` returns, called again while that may help and the patience lasts."""
        uri, patience_s = self.uri(key), self.limits.patience_s
        try:
            return self._tries(action, key, is_transient)(attempt)
        except Exception as error:
            if is_transient(error):
                raise TransientError(
                    f"cannot {action} {uri}: {reason_of(error)}, again and again for {patience_s:g} s "
                    "(placement.storage.patience_s); run the same command again to continue"
                ) from error
            final = explained(error, action, uri)
            if final is error:
                raise
            raise final from error

    def _tries(self, action: str, key: str, is_worth: Callable[[BaseException], bool]) -> Retrying:
        return Retrying(
            stop=stop_before_delay(self.limits.patience_s),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            retry=retry_if_exception(is_worth),
            before_sleep=lambda state: _tell(state, action, self.uri(key)),
            reraise=True,
        )

    def _once(self, request: Callable[[], Awaitable[Any]]) -> Any:
        for pause_s in _CREDENTIAL_PAUSES_S:
            try:
                return self._synced(request)
            except NoCredentialsError:
                # A node that has just started may not have its role's yet, and a client made without never asks again.
                type(self._filesystem()).clear_instance_cache()
                time.sleep(pause_s)
        return self._synced(request)

    def _synced(self, request: Callable[[], Awaitable[Any]]) -> Any:
        # The bound holds also for a body that trickles, where no single read times out.
        return sync(self._filesystem().loop, request, timeout=self.limits.patience_s)

    def _filesystem(self) -> Any:
        # fsspec keeps one a process for equal arguments: what the environment says must be among them, or a change
        # of it goes unseen. No listing is cached: it would hide what others write.
        return fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), None),
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": self.limits.connect_timeout_s,
                "read_timeout": self.limits.read_timeout_s,
                "max_pool_connections": self.limits.max_connections,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
            },
        )

    async def _request(self, method: str, **arguments: Any) -> Any:
        filesystem = self._filesystem()
        await filesystem.set_session()
        client = await filesystem.get_s3(self.name)
        return await getattr(client, method)(Bucket=self.name, **arguments)


class _Download:
    """A read that goes on where its last try broke off."""

    def __init__(self, bucket: S3Bucket, key: str, etag: str | None, start: int, length: int | None) -> None:
        self._bucket = bucket
        self._key = key
        self._etag = etag
        self._start = start
        self._length = length
        self._received = bytearray()

    async def attempt(self) -> Fetched:
        if self._etag is None:
            # Without a version to hold on to, two halves may be of two objects.
            self._received.clear()
        if self._start < 0:
            self._received.clear()
        first = self._start + len(self._received)
        arguments = {"Key": self._key, **self._range(first)}
        if self._etag is not None:
            arguments["IfMatch"] = f'"{self._etag}"'
        try:
            answer = await self._bucket._request("get_object", **arguments)
        except ClientError as error:
            if status_of(error) != 416:
                raise
            # Past the end of the object; whose size the refusal names in no way that all stores share.
            return Fetched(bytes(self._received), max(self._start, 0) + len(self._received), self._etag or "")
        if first > 0 and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise OSError(errno.ENOTSUP, "the store ignores ranges", self._bucket.uri(self._key))
        due = int(answer["ContentLength"])
        body = answer["Body"]
        got = 0
        try:
            async for chunk in body.iter_chunks(_BODY_CHUNK_BYTES):
                self._received += chunk
                got += len(chunk)
        finally:
            body.close()
        if got != due:
            raise IncompleteReadError(actual_bytes=got, expected_bytes=due)
        return Fetched(bytes(self._received), _whole_size(answer), answer["ETag"].strip('"'))

    def _range(self, first: int) -> dict[str, str]:
        if first < 0:
            return {"Range": f"bytes={first}"}
        if self._length is not None:
            return {"Range": f"bytes={first}-{self._start + self._length - 1}"}
        return {"Range": f"bytes={first}-"} if first else {}


def _content_type(key: str) -> dict[str, str]:
    known = _CONTENT_TYPES.get(PurePosixPath(key).suffix)
    return {} if known is None else {"ContentType": known}


def _listed(entry: dict[str, Any]) -> StoredObject:
    return StoredObject(entry["Key"], entry["Size"], entry["ETag"].strip('"'), entry["LastModified"].timestamp())


def _whole_size(answer: dict[str, Any]) -> int:
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdecimal() else int(answer["ContentLength"])


def _tell(state: RetryCallState, action: str, uri: str) -> None:
    error = state.outcome.exception() if state.outcome else None
    waited_s = state.seconds_since_start or 0.0
    level = logging.WARNING if waited_s > _TOLD_AFTER_S else logging.DEBUG
    reason = reason_of(error) if error else "no answer"
    count(STORAGE_RETRIES)
    logger.log(level, "cannot %s %s: %s; trying again, for %.0f s so far", action, uri, reason, waited_s)
