"""Sends requests to one bucket of an S3 store, retries them up to a time limit, and classifies their errors.

Called by `s3_listing.py` and `s3_storage.py`. Only this module may retry: s3fs and botocore send each request once. A
client that silently repeats a conditional request cannot distinguish its own first try from another writer.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import botocore.exceptions as boto
import fsspec
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from pseudoris.files.s3_client import Answer, Course, etag_of, with_client
from pseudoris.files.storage import ArchivedError, ChangedError, NoBucketError, NotImplementedByStoreError
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.primitives.measures import STORAGE_RETRIES, count
from pseudoris.primitives.uris import client_error, secret_in
from pseudoris.schemas.config import StorageConfig

# These codes mean that the token has expired. A retry helps if the client can renew the token.
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_CODES_TO_RETRY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
    | {"TooManyRequests", "BandwidthLimitExceeded", "OperationAborted", "ConditionalRequestConflict"}
    # These codes mean that the body was damaged in transit.
    | {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
    | _EXPIRED
)
# These errors mean that a connection broke, timed out or ended within a body, or that credentials were not available.
_BROKEN: Final = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    boto.MetadataRetrievalError,
    boto.CredentialRetrievalError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    ConnectionError,
)
# A 403 with one of these codes means that the credentials are bad, not that the object is protected.
_BAD_CREDENTIALS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"}
    | {"AccountProblem", "NotSignedUp", "InvalidSecurity"}
)
# A store without space answers 507, or one of these codes with any status: Ceph 403 `QuotaExceeded`, MinIO 400
# `XMinioAdminBucketQuotaExceeded` and 507 `XMinioStorageFull`.
_NO_SPACE: Final = 507
_FULL: Final = re.compile(r"Quota(Limit)?Exceeded|StorageFull|DiskFull|InsufficientStorage")
# An error may name the header that the store refuses. Only that name is shown, because the rest may hold secrets.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,60}")
# These codes mean a wrong name or region of a bucket. `400` is one, because an answer to HEAD has no other code.
_BAD_BUCKETS: Final = frozenset({"InvalidBucketName", "AuthorizationHeaderMalformed", "400"})
_BAD_PLACE: Final = re.compile(r"Location|Region|Redirect|Endpoint")

# A page of a listing: at most 1,000 objects as the store describes them (`Key`, `Size`, `ETag` in quotes,
# `LastModified`, `StorageClass`), and the common prefixes.
Page = tuple[list[Answer], list[str]]


def status_of(error: BaseException) -> int:
    """Return the HTTP status of the store's answer, 0 if it did not answer."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


def code_of(error: BaseException) -> str:
    """Return the store's error code, such as `NoSuchKey`; empty if it did not answer."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def is_transient(error: BaseException) -> bool:
    """Return whether another try may succeed."""
    if isinstance(error, boto.ClientError):
        status = status_of(error)
        if _number_if_full(error) is not None:
            return False
        # 501 (not implemented) and 505 (HTTP version not supported) are permanent.
        is_fault = status >= 500 and status not in (501, 505)
        return is_fault or status in (408, 409, 429) or code_of(error) in _CODES_TO_RETRY
    return isinstance(error, _BROKEN)


def reason_of(error: BaseException) -> str:
    """Return a word or two for messages; never the client's text, which may repeat what was sent."""
    if isinstance(error, boto.ClientError):
        header = str(_response(error).get("Error", {}).get("Header", ""))
        refused = f", header {header}" if _HEADER_NAME.fullmatch(header) else ""
        return f"{code_of(error)} (HTTP {status_of(error)}{refused})"
    return type(error).__name__


def explained(error: Exception, action: str, uri: str) -> Exception:
    """Return the exception to raise for an error that a retry will not fix.

    FileNotFoundError, PermissionError, ArchivedError and ChangedError are answers; ConfigError is for the user to
    correct; an OSError with a number is any other error of the store.
    """
    if not isinstance(error, boto.ClientError):
        return _unsent(error, action, uri)
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        return NoBucketError(
            f"cannot {action} {uri}: there is no such bucket. Create it, or check its name and the endpoint"
        )
    is_elsewhere = 300 <= status < 400 or (status == 400 and _BAD_PLACE.search(code) is not None)
    if code in _BAD_BUCKETS or is_elsewhere:
        return NoBucketError(f"cannot {action} {uri}: {reason_of(error)}. Check the bucket's name, region and endpoint")
    if status == 404:
        return FileNotFoundError(errno.ENOENT, "there is no such object", uri)
    if code == "InvalidObjectState":
        return ArchivedError(errno.EACCES, reason_of(error), uri)
    if status == 501:
        return NotImplementedByStoreError(
            f"cannot {action} {uri}: the store does not implement this request: {reason_of(error)}. Check the "
            "endpoint, update the store, or use another one"
        )
    if (number := _number_if_full(error)) is not None:
        return OSError(number, reason_of(error), uri)
    if status == 403:
        number = errno.EKEYREJECTED if code in _BAD_CREDENTIALS else errno.EACCES
        return PermissionError(number, reason_of(error), uri)
    if status == 412:
        return _changed(uri)
    number = errno.ENAMETOOLONG if code == "KeyTooLongError" else errno.EIO
    return OSError(number, reason_of(error), uri)


def _number_if_full(error: boto.ClientError) -> int | None:
    """Return the number that a disk's error would have for a store without space; None if it does not say so."""
    return errno.ENOSPC if status_of(error) == _NO_SPACE or _FULL.search(code_of(error)) else None


def _changed(uri: str) -> ChangedError:
    return ChangedError(f"cannot read {uri}: it changed, or its store gives wrong etags; run the command again")


def _unsent(error: Exception, action: str, uri: str) -> Exception:
    """Return the exception to raise if the client sent no request."""
    if isinstance(error, boto.NoCredentialsError | boto.ParamValidationError):
        kind = NoBucketError if isinstance(error, boto.ParamValidationError) else ConfigError
        return kind(
            f"cannot {action} {uri}: {type(error).__name__}. Provide credentials (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an instance role), and check the bucket's name and the endpoint"
        )
    return client_error(error, uri) if isinstance(error, boto.BotoCoreError | ValueError) else error


def _response(error: BaseException) -> dict[str, dict[str, object]]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


logger = logging.getLogger(__name__)

# The first pause is random and at most this long. The limit doubles with each retry, up to the longest pause.
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 20.0
# A retry this long after the first attempt is logged as a warning, because by then the user notices the delay.
_WARN_AFTER_S: Final = 10.0
# A process opens at most this many connections to S3. More connections help only if a single one is slow.
_MAX_CONNECTIONS: Final = 32
_BODY_CHUNK_BYTES: Final = 2**20
_CREDENTIAL_PAUSES_S: Final = (1.0, 4.0)
# botocore reads the endpoint from these variables, in this order.
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The requested bytes of an object, and the size and etag of the whole object."""

    data: bytes
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class S3Requests:
    """Sends requests to the bucket `name`. Can be pickled; each process connects when it sends its first request.

    `endpoint_url` is that of a store other than AWS; None uses that of the environment, or else AWS. With
    `requester_pays` each request says that its sender pays for it.
    """

    name: str
    endpoint_url: str | None
    limits: StorageConfig
    requester_pays: bool = False

    def __post_init__(self) -> None:
        """Refuse an endpoint of the environment that contains a secret: the client's errors would show it."""
        for name in _ENDPOINT_VARIABLES:
            secret = secret_in(os.environ.get(name, ""))
            if secret is not None:
                raise ConfigError(f"{name}: {secret}")

    def address(self, key: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.name}/{key}"

    def request(self, action: str, key: str, method: str, **arguments: Any) -> Any:
        """Return the answer of a method of botocore's client, such as `head_object`; it may be sent often.

        `action`, a verb such as `read`, and `key`, an object or a prefix, are for messages. The bucket's name is added.
        """
        return self.with_retries(action, key, lambda: self.send(lambda: self.call(method, **arguments)))

    def with_retries(self, action: str, key: str, attempt: Callable[[], Any]) -> Any:
        """Return what `attempt` returns; it is called again for up to `patience_s` while that may help."""
        uri, patience_s = self.address(key), self.limits.patience_s
        try:
            return self.retrying(action, key, is_transient)(attempt)
        except Exception as error:
            if is_transient(error):
                renew = "renew the credentials, then " if code_of(error) in _EXPIRED else ""
                raise TransientError(
                    f"cannot {action} {uri}: {reason_of(error)}, retried for {patience_s:g} s "
                    f"(placement.storage.patience_s); {renew}run the same command again to continue"
                ) from error
            final = explained(error, action, uri)
            if final is error:
                raise
            raise final from error

    def retrying(self, action: str, key: str, is_worth: Callable[[BaseException], bool]) -> Retrying:
        """Return the retry rule: random pauses, up to `patience_s`, after errors that a retry may fix."""
        return Retrying(
            stop=stop_before_delay(self.limits.patience_s),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            retry=retry_if_exception(is_worth),
            before_sleep=lambda state: _log_retry(state, action, self.address(key)),
            reraise=True,
        )

    def send(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to one request, sent once; it only waits for missing credentials."""
        for pause_s in _CREDENTIAL_PAUSES_S:
            try:
                return self._synced(request)
            except boto.NoCredentialsError:
                # A node that just started may not have its role's credentials yet; a client made without them never
                # asks again.
                type(self._filesystem()).clear_instance_cache()
                time.sleep(pause_s)
        return self._synced(request)

    async def call(self, method: str, **arguments: Any) -> Any:
        """Return the answer of a method of botocore's client."""
        if self.requester_pays:
            arguments["RequestPayer"] = "requester"

        def ask(client: Any) -> Any:
            return getattr(client, method)(Bucket=self.name, **arguments)

        return Answer(await with_client(self._filesystem(), self.name, is_transient, ask))

    def get(self, key: str, *, etag: str | None = None, start: int = 0, length: int | None = None) -> Fetched:
        """Return bytes of the object, from one request unless it breaks; fewer if the object ends earlier.

        With an etag, an interrupted body is continued, not fetched again, and another version raises `ChangedError`. A
        negative `start` counts from the end, and `length` is then not used. Without a `length` the bytes go to the end.
        """
        received = bytearray()
        most = -start if start < 0 else sys.maxsize if length is None else length

        async def attempt() -> Fetched:
            if etag is None or start < 0:
                # Without an etag the object may have changed, and a read from the end cannot resume: both start anew.
                received.clear()
            first = start + len(received)
            arguments = {"Key": key, **_range(first, None if length is None else start + length)}
            if etag is not None:
                arguments["IfMatch"] = f'"{etag}"'
            try:
                answer = await self.call("get_object", **arguments)
            except boto.ClientError as error:
                if status_of(error) != 416:
                    raise
                # The range starts behind the object's end. The size is computed, as some stores report a wrong one.
                return Fetched(bytes(received), max(start, 0) + len(received), etag or "")
            is_whole = first > 0 and answer["ResponseMetadata"]["HTTPStatusCode"] != 206
            if is_whole or int(answer["ContentLength"]) > most:
                raise OSError(errno.ENOTSUP, "the store does not support range requests", self.address(key))
            found = etag_of(answer)
            if etag not in (None, found):
                # The store ignored the condition (`IfMatch`) and sent another version.
                raise _changed(self.address(key))
            await _receive(answer, received)
            return Fetched(bytes(received), _whole_size(answer), found)

        fetched: Fetched = self.with_retries("read", key, lambda: self.send(attempt))
        return fetched

    def pages(self, prefix: str, *, delimiter: str = "", start_after: str = "") -> Iterator[Page]:
        """Yield the objects below a prefix whose keys come after `start_after`, in the order of their keys' bytes.

        Keys that contain the `delimiter` after the prefix are grouped into the prefixes of a page. ConfigError if a
        page does not go on after the one before: the listing might never end.
        """
        where = {"Delimiter": delimiter, **({"StartAfter": start_after} if start_after else {})}
        course = Course(self.address(prefix), start_after)
        while True:
            answer = self.request("list", prefix, "list_objects_v2", Prefix=prefix, **where)
            objects, prefixes = answer.all("Contents"), [each["Prefix"] for each in answer.all("CommonPrefixes")]
            yield objects, course.take([each["Key"] for each in objects], prefixes, prefix)
            if not answer.get("IsTruncated"):
                return
            where["ContinuationToken"] = answer["NextContinuationToken"]

    def _synced(self, request: Callable[[], Awaitable[Any]]) -> Any:
        # The time limit is for the whole request, because a slow body never exceeds the limit of a single read.
        return sync(self._filesystem().loop, request, timeout=self.limits.patience_s)

    def _filesystem(self) -> Any:
        # fsspec keeps one instance per process for equal arguments: they must include the environment's values, or a
        # change of these has no effect. Listings are not cached: a cache would hide what others write.
        return fsspec.filesystem(
            "s3",
            endpoint_url=self.endpoint_url or next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), None),
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": self.limits.connect_timeout_s,
                "read_timeout": self.limits.read_timeout_s,
                "max_pool_connections": _MAX_CONNECTIONS,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                # By default the client adds checksums to every write, which older stores refuse (501, or 400). The
                # signature covers the body anyway.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        )


async def _receive(answer: dict[str, Any], received: bytearray) -> None:
    due, got = int(answer["ContentLength"]), 0
    body = answer["Body"]
    try:
        async for chunk in body.iter_chunks(_BODY_CHUNK_BYTES):
            received += chunk
            got += len(chunk)
    finally:
        body.close()
    if got != due:
        raise boto.IncompleteReadError(actual_bytes=got, expected_bytes=due)


def _range(first: int, end: int | None) -> dict[str, str]:
    if first < 0:
        return {"Range": f"bytes={first}"}
    if end is not None:
        return {"Range": f"bytes={first}-{end - 1}"}
    return {"Range": f"bytes={first}-"} if first else {}


def _whole_size(answer: dict[str, Any]) -> int:
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdecimal() else int(answer["ContentLength"])


def _log_retry(state: RetryCallState, action: str, uri: str) -> None:
    error = state.outcome.exception() if state.outcome else None
    waited_s = state.seconds_since_start or 0.0
    level = logging.WARNING if waited_s > _WARN_AFTER_S else logging.DEBUG
    reason = reason_of(error) if error else "no answer"
    count(STORAGE_RETRIES)
    logger.log(level, "Cannot %s %s: %s. Retrying, for %.0f s so far.", action, uri, reason, waited_s)
