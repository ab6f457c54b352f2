"""Bounds what a server may make the Hub's client do: wait, list without end, take memory, ask an inner address.

`bounded_answers` is entered around each operation of the client, by `hub_storage` and by the download of weights. Other
users of the client in this process, such as a notebook's own, keep their bounds.
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import httpx2
from huggingface_hub.utils._http import default_client_factory, set_client_factory

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import is_link_local

# A page of a folder has 1,000 entries, and the Hub takes 10,000 files a folder. Source: its page "Storage limits".
_MAX_PAGES: Final = 1_000
# Answers that are no files have at most this many bytes: 1,000 entries have 0.5 MB, the names of 100,000 files 10 MB.
_MAX_ANSWER_BYTES: Final = 2**26
# The window of the Hub's own rate limits: a server that asks for a longer pause is asked again after this.
_MAX_PAUSE_S: Final = 300
_READ_TIMEOUT_S: Final = 60.0
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")
# Counts the pages of listings in the operation; None outside of `bounded_answers`.
_PAGES: ContextVar[Iterator[int] | None] = ContextVar("_PAGES", default=None)


@contextmanager
def bounded_answers() -> Iterator[None]:
    """Bound, in this thread, what the Hub's client takes in the block.

    Raises:
        ConfigError: A listing has too many pages, or a redirect leads to a link-local address.
        OSError: An answer is longer than what was asked for.
    """
    before = _PAGES.get()
    _PAGES.set(itertools.count())
    try:
        yield
    finally:
        # Not by the token, because another thread may end the block.
        _PAGES.set(before)


def refuse_link_local(request: httpx2.Request) -> None:
    """Raise a ConfigError for a request to an address where clouds give credentials; for `event_hooks` of a client."""
    if is_link_local(request.url.host):
        raise ConfigError(
            f"a server redirects to {request.url.host}, a link-local address, which is never asked: check HF_ENDPOINT, "
            "the url, and the proxy in between"
        )


def _before(request: httpx2.Request) -> None:
    pages = _PAGES.get()
    if pages is None:
        return
    refuse_link_local(request)
    if "cursor" in request.url.params and next(pages) >= _MAX_PAGES:
        raise ConfigError(
            f"{request.url.host} lists a folder in more than {_MAX_PAGES:,} pages, which is not the Hub: check "
            "HF_ENDPOINT"
        )
    # A compressed answer could have any length.
    request.headers["Accept-Encoding"] = "identity"
    if request.method in ("GET", "HEAD"):
        waits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {name: wait or _READ_TIMEOUT_S for name, wait in waits.items()}


def _after(response: httpx2.Response) -> None:
    if _PAGES.get() is None:
        return
    for name in {"retry-after", "ratelimit"} & response.headers.keys():
        response.headers[name] = re.sub(r"\d{3,}", _pause, response.headers[name])
    asked = _RANGE.fullmatch(response.request.headers.get("Range", ""))
    limit = int(asked[2]) - int(asked[1]) + 1 if asked is not None and response.is_success else _MAX_ANSWER_BYTES
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError(errno.EIO, "the Hub, or a proxy in between, compresses its answers although it was asked not to")
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Bounded(response.stream, limit)


def _pause(seconds: re.Match[str]) -> str:
    return str(_MAX_PAUSE_S if len(seconds[0]) > 3 else min(int(seconds[0]), _MAX_PAUSE_S))


class _Bounded(httpx2.SyncByteStream):
    """A body that ends in an OSError where it is longer than it may be."""

    def __init__(self, stream: httpx2.SyncByteStream, limit: int) -> None:
        self._stream, self._limit = stream, limit

    def __iter__(self) -> Iterator[bytes]:
        size_bytes = 0
        for block in self._stream:
            size_bytes += len(block)
            if size_bytes > self._limit:
                raise OSError(errno.EIO, f"the Hub sends more than the {self._limit:,} bytes that were asked for")
            yield block

    def close(self) -> None:
        self._stream.close()


def _client() -> httpx2.Client:
    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], _before], "response": [*hooks["response"], _after]}
    return client


set_client_factory(_client)
