"""Sets up botocore's client of a bucket, and checks the answers of its store. Called by the other `s3_*` modules.

An error of the set-up is not retried: the user corrects it. An answer that lacks a field, and a listing or a redirect
that would not end, must end the command with an error that names the store.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit
from weakref import WeakSet

import botocore.exceptions as boto

from pseudoris.files.storage import is_unknown_host
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import client_error

# Warnings are off, because these libraries log each failed renewal of credentials and also raise the error.
for _name in ("botocore", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# Holds the clients that got an answer once. Their settings are right, so a later failure is retried.
_ANSWERED: Final[WeakSet[Any]] = WeakSet()
_TLS_TIMEOUT_S: Final = 2.0
# These OSErrors come from a file that a setting names. All others come from the machine or the network.
_OF_A_PATH: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# These TLS errors mean that the connection broke during the handshake: the network failed, not a setting.
_BROKEN_HANDSHAKE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


async def with_client(
    filesystem: Any, bucket: str, is_transient: Callable[[BaseException], bool], use: Callable[[Any], Awaitable[Any]]
) -> Any:
    """Return what `use` returns for botocore's client, once its credentials are there.

    ConfigError if the client's set-up is wrong; otherwise errors of the client, and of servers that give credentials.
    """
    try:
        await filesystem.set_session()
        credentials = None if filesystem.anon else await filesystem.session.get_credentials()
        if credentials is not None:
            await credentials.get_frozen_credentials()
        client = await filesystem.get_s3(bucket)
    except Exception as error:
        may_pass = is_transient(error) and (filesystem in _ANSWERED or not _is_local(error))
        if may_pass or (isinstance(error, MemoryError | OSError) and not isinstance(error, _OF_A_PATH)):
            raise
        raise client_error(error, f"s3://{bucket}", filesystem.endpoint_url) from error
    # A redirected client asks for the bucket's region. A second such request is refused: it could repeat forever.
    client.meta.events.register("before-call.s3.HeadBucket", _refuse_second, unique_id="pseudoris-region")
    try:
        answer = await use(client)
    except boto.ClientError:
        _ANSWERED.add(filesystem)
        raise
    except Exception as error:
        is_new, endpoint = filesystem not in _ANSWERED, filesystem.endpoint_url
        is_closed = isinstance(error, boto.EndpointConnectionError | boto.ConnectionClosedError)
        if is_new and (_is_local(error) or (is_closed and await asyncio.to_thread(_speaks_tls, endpoint))):
            raise client_error(error, f"s3://{bucket}", endpoint) from error
        raise
    _ANSWERED.add(filesystem)
    return answer


def _speaks_tls(endpoint: str | None) -> bool:
    """Return whether an address that is given with `http://` answers as one of `https://` does."""
    try:
        at = urlsplit(endpoint or "")
        place = at.hostname or "", at.port or 80
        return at.scheme == "http" and bool(ssl.get_server_certificate(place, timeout=_TLS_TIMEOUT_S))
    except ssl.SSLError as error:
        # The server answered with a TLS alert, so it expects TLS.
        return "ALERT" in str(error.reason)
    except (OSError, ValueError):
        return False


def _is_local(error: BaseException) -> bool:
    """Return whether an error that looks like one of the network comes from the settings of this machine."""
    if isinstance(error, boto.CredentialRetrievalError):
        # If no metadata server failed, a program that the profile names did: that is a local fault.
        return not isinstance(error.__context__, boto.MetadataRetrievalError)
    cause = getattr(error, "kwargs", {}).get("error")
    if isinstance(error, boto.SSLError):
        return not isinstance(getattr(cause, "os_error", cause), _BROKEN_HANDSHAKE)
    if isinstance(error, boto.EndpointConnectionError):
        return is_unknown_host(cause)
    # An error with one of these causes means that the settings name certificates that cannot be read.
    return isinstance(error, boto.HTTPClientError) and isinstance(cause, (*_OF_A_PATH, ssl.SSLError, ValueError))


_REMEDY: Final = "Check the endpoint, update the store, or use another one"
# A listing may have at most this many empty pages in a row. Some are normal, as deleted versions can fill a page.
_MAX_EMPTY_PAGES: Final = 100
# True if the client has already asked for the bucket's region during the present request.
_ASKED_REGION: Final = ContextVar("_ASKED_REGION", default=False)


class Answer(dict[str, Any]):
    """What the store said. A field that it left out raises a ConfigError."""

    def __missing__(self, name: str) -> NoReturn:
        """Tell the store's fault."""
        raise ConfigError(f"the store's answer has no {name}, against S3's rules. {_REMEDY}")

    def all(self, name: str) -> list[Answer]:
        """Return the entries of a list, which is left out if it is empty."""
        return [Answer(each) for each in self.get(name, ())]


class Course:
    """The course of one listing: each page goes on after the one before, so that the listing ends."""

    def __init__(self, uri: str, last: str = "") -> None:
        """Begin after the key `last`, below `uri`."""
        self._uri, self._last, self._num_empty = uri, last, 0

    def take(self, keys: list[str], prefixes: list[str], below: str) -> list[str]:
        """Accept a page and return its new prefixes; a page may begin with the last prefix of the page before.

        ConfigError if something is not after all of the page before, or not `below` the listed prefix.
        """
        new = [each for each in prefixes if each != self._last]
        found = [*keys, *new]
        if not all(each > self._last and each.startswith(below) for each in found):
            self._refuse("repeats keys, or has keys of another folder")
        self._last = max([self._last, *found])
        self.count(len(found))
        return new

    def count(self, num_new: int) -> None:
        """Accept a page with so many new entries; ConfigError if too many pages had none."""
        self._num_empty = 0 if num_new else self._num_empty + 1
        if self._num_empty > _MAX_EMPTY_PAGES:
            self._refuse(f"goes on after {_MAX_EMPTY_PAGES} pages with nothing new")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(f"cannot list {self._uri}: the store's listing {what}. {_REMEDY}")


def etag_of(described: Mapping[str, Any]) -> str:
    """Return the etag of an object as a store describes it, without quotes."""
    return str(described["ETag"]).removeprefix("W/").strip('"')


def _refuse_second(**_: Any) -> None:
    if _ASKED_REGION.get():
        raise boto.ClientError({"ResponseMetadata": {"HTTPHeaders": {}}}, "HeadBucket")
    _ASKED_REGION.set(True)
