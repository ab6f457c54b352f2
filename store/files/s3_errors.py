"""Classifies the errors of an S3 store: an answer, a user error, or a fault that a retry may fix."""

from __future__ import annotations

import errno
import re
from typing import Final

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files.storage import ArchivedError, ChangedError, NoBucketError, NotImplementedByStoreError

_CODES_TO_RETRY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
    | {"TooManyRequests", "BandwidthLimitExceeded", "OperationAborted", "ConditionalRequestConflict"}
    # The body was damaged in transit; or a token expired, which is renewed before a retry.
    | {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "ExpiredToken"}
)
# Connections that break, time out, or end in the middle of a body.
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
# What 403 says about the credentials, not about the object.
_BAD_CREDENTIALS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"}
    | {"AccountProblem", "NotSignedUp", "InvalidSecurity"}
)
# A header that a store refuses is named by its answer. Anything else there is not shown: it may repeat what was sent.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,60}")
_BAD_BUCKETS: Final = frozenset({"InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed"})
_TO_MEND: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.ParamValidationError,
    boto.NoRegionError,
)


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
        # 501 and 505 are permanent.
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
    if isinstance(error, _TO_MEND):
        kind = NoBucketError if isinstance(error, boto.ParamValidationError) else ConfigError
        return kind(
            f"cannot {action} {uri}: {type(error).__name__}. Provide credentials (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an instance role), and check the bucket's name and the endpoint"
        )
    if not isinstance(error, boto.ClientError):
        return error
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        return NoBucketError(
            f"cannot {action} {uri}: there is no such bucket. Create it, or check its name and the endpoint"
        )
    if code in _BAD_BUCKETS:
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
    if status == 403:
        number = errno.EKEYREJECTED if code in _BAD_CREDENTIALS else errno.EACCES
        return PermissionError(number, reason_of(error), uri)
    if status == 412:
        return ChangedError(uri)
    number = errno.ENAMETOOLONG if code == "KeyTooLongError" else errno.EIO
    return OSError(number, reason_of(error), uri)


def _response(error: BaseException) -> dict[str, dict[str, object]]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}
