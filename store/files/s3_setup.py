"""Gives `s3_requests` botocore's client of a bucket. What its set-up got wrong is not retried: the user corrects it."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakSet

import botocore.exceptions as boto

from pseudoris.schemas.client_errors import client_error
from pseudoris.store.files.storage import is_unknown_host

# They log each failed renewal of credentials with a traceback, and raise the error besides.
for _name in ("botocore", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# Clients whose store has answered, with data or a refusal: their set-up is right.
_ANSWERED: Final[WeakSet[Any]] = WeakSet()
# What a set-up that reads files gets wrong. Other OSErrors are the machine's or the network's.
_OF_A_PATH: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# The connection broke during the handshake.
_BROKEN_HANDSHAKE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


async def with_client(
    filesystem: Any, bucket: str, is_transient: Callable[[BaseException], bool], use: Callable[[Any], Awaitable[Any]]
) -> Any:
    """Return what `use` returns for botocore's client, once its credentials are there.

    Raises:
        ConfigError: The client's set-up is wrong.
        Exception: As the client; also of the servers that it asks for credentials.
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
    try:
        answer = await use(client)
    except boto.ClientError:
        _ANSWERED.add(filesystem)
        raise
    except Exception as error:
        if filesystem not in _ANSWERED and _is_local(error):
            raise client_error(error, f"s3://{bucket}", filesystem.endpoint_url) from error
        raise
    _ANSWERED.add(filesystem)
    return answer


def _is_local(error: BaseException) -> bool:
    """Return whether an error that looks like one of the network is of this machine's settings."""
    if isinstance(error, boto.CredentialRetrievalError):
        # Of a program that the profile names, unless a server of credentials was asked.
        return not isinstance(error.__context__, boto.MetadataRetrievalError)
    cause = getattr(error, "kwargs", {}).get("error")
    if isinstance(error, boto.SSLError):
        return not isinstance(getattr(cause, "os_error", cause), _BROKEN_HANDSHAKE)
    if isinstance(error, boto.EndpointConnectionError):
        return is_unknown_host(cause)
    # Certificates that are named and cannot be read.
    return isinstance(error, boto.HTTPClientError) and isinstance(cause, (*_OF_A_PATH, ssl.SSLError, ValueError))
