"""Downloads a file of weights for `weight_cache`: resumed where it broke off, named only once its digest is right."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.untrusted import open_regular

# Called with the bytes that are on disk, and the bytes of the whole file if known.
OnProgress = Callable[[int, int | None], None]
_CONNECT_TIMEOUT_S: Final = 5.0
# A server that sends nothing for this long counts as broken off.
_READ_TIMEOUT_S: Final = 30.0
# Attempts in a row that bring no byte: half a minute of refusals, or three minutes of silence.
_MAX_IDLE_ATTEMPTS: Final = 6
# Ends the download if a server ignores ranges and always breaks off a little later.
_MAX_ATTEMPTS: Final = 100
_SERVES_OTHER_BYTES: Final = "Run the command again; if it repeats, the server or a proxy serves other bytes"
RETRIED_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a web server.

    Attributes:
        name: Its path relative to the cache.
        url: Where it is; redirects are followed.
        sha256: What its bytes must be; None accepts any.
        size_bytes: Its length, None if not known.
        revision: Its commit; empty if it is not of the hub.
        headers: Sent with each request; `Authorization` only to the url's own host.
    """

    name: str
    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    revision: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def download(remote: RemoteFile, target: Path, on_progress: OnProgress) -> str:
    """Write a remote file to `target` and return its sha256. What broke off is continued, also by a later process.

    Until it is complete and its digest is right, the file is called `target` with `.part`. Only one process at a time
    may download to a target.

    Raises:
        ConfigError: The server refuses the file, its bytes have another length or digest, or the disk is full.
        TransientError: The server stays away, or breaks off again and again.
    """
    transfer = _Transfer(remote, target.with_name(f"{target.name}.part"), on_progress)
    retrying = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=transfer.is_given_up,
        wait=wait_exponential_jitter(initial=1, max=20),
        before_sleep=lambda state: logger.warning(
            "%s: next attempt in %.0f s",
            state.outcome.exception() if state.outcome else None,
            state.next_action.sleep if state.next_action else 0,
        ),
        reraise=True,
    )
    try:
        retrying(transfer.attempt)
        sha256 = transfer.checked_sha256()
        transfer.part.replace(target)
        return sha256
    except TransientError as error:
        raise TransientError(
            f"{remote.url} cannot be downloaded: {error}. {transfer.offset:,} bytes are here: run the command again"
        ) from error
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        raise ConfigError(f"{remote.url} cannot be stored as {target}: {error.strerror}") from error


class _Transfer:
    """What is here of a file, and how the rest is asked for.

    No version is sent along: a part of another version ends with a wrong digest, and the files of a commit stay.
    """

    def __init__(self, remote: RemoteFile, part: Path, on_progress: OnProgress) -> None:
        self._remote, self.part, self._on_progress = remote, part, on_progress
        self._size_bytes, self._furthest, self._num_idle = remote.size_bytes, self.offset, 0

    @property
    def offset(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def is_given_up(self, state: RetryCallState) -> bool:
        """Return whether no attempt brings anything any more; called once an attempt, because it counts."""
        self._num_idle = 0 if self.offset > self._furthest else self._num_idle + 1
        self._furthest = max(self._furthest, self.offset)
        return self._num_idle >= _MAX_IDLE_ATTEMPTS or state.attempt_number >= _MAX_ATTEMPTS

    def attempt(self) -> None:
        """Ask for what is missing, and write it. Raises: TransientError: Something is still missing."""
        if self._size_bytes is not None and self.offset > self._size_bytes:
            self.part.unlink()
        if self.offset and self.offset == self._size_bytes:
            return
        timeout = httpx2.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        # If the server compressed the file, byte offsets would not fit.
        headers = {**self._remote.headers, "Accept-Encoding": "identity"}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
        try:
            with (
                httpx2.Client(follow_redirects=True, timeout=timeout) as client,
                client.stream("GET", self._remote.url, headers=headers) as response,
            ):
                self._receive(response)
        except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
            # A retry would be redirected in the same way.
            raise ConfigError(
                f"{self._remote.url} cannot be downloaded: it redirects without end, or to no web server "
                f"({error}). Check the url, and the proxy in between"
            ) from error
        except httpx2.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if self._size_bytes is not None and self.offset < self._size_bytes:
            raise TransientError(f"the connection ended after {self.offset:,} of {self._size_bytes:,} bytes")

    def checked_sha256(self) -> str:
        """Return the digest of the complete file; a file with a wrong one is deleted."""
        with open_regular(self.part) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if self._remote.sha256 not in (None, found):
            self.part.unlink()
            raise ConfigError(
                f"{self._remote.url} gave a file with sha256 {found}, expected {self._remote.sha256}: it was not kept. "
                f"{_SERVES_OTHER_BYTES}"
            )
        return found

    def _receive(self, response: httpx2.Response) -> None:
        is_all_here = response.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE and self.offset > 0
        if response.status_code in RETRIED_STATUSES:
            raise TransientError(f"the server answers {response.status_code} {response.reason_phrase}")
        if response.is_error and not is_all_here:
            raise ConfigError(
                f"{self._remote.url} cannot be downloaded: the server answers {response.status_code} "
                f"{response.reason_phrase}"
            )
        # Checked before a byte is written: the error page of a proxy must not replace what was downloaded.
        total = _total(response)
        if self._remote.size_bytes is not None and total not in (None, self._remote.size_bytes):
            raise self._other_bytes(f"has {total:,} bytes")
        if is_all_here:
            if total != self.offset and (total is not None or self._size_bytes is not None):
                self.part.unlink()
                raise TransientError("the part is longer than the file")
            return
        is_rest = response.status_code == httpx2.codes.PARTIAL_CONTENT
        sent = response.headers.get("Content-Range", "")
        if is_rest and not sent.startswith(f"bytes {self.offset}-"):
            self.part.unlink(missing_ok=True)
            raise TransientError(f"the server sent another range: {sent}")
        if self._remote.size_bytes is None:
            # A range may arrive without the length of the whole file.
            self._size_bytes = total or self._size_bytes
        # A plain 200 is the whole file, because the server ignores ranges.
        self._write(response, done=self.offset if is_rest else 0)

    def _other_bytes(self, found: str) -> ConfigError:
        return ConfigError(
            f"{self._remote.url} {found}, expected {self._size_bytes:,}: they were not kept. {_SERVES_OTHER_BYTES}"
        )

    def _write(self, response: httpx2.Response, *, done: int) -> None:
        """Write what follows the first `done` bytes, if the disk has room for it."""
        needed = (self._size_bytes or 0) - done
        free = shutil.disk_usage(self.part.parent).free + (self.offset - done)
        if needed > free:
            raise ConfigError(
                f"{self._remote.url} needs {needed:,} bytes, and {self.part.parent} has {free:,} free: free some, or "
                "name another folder"
            )
        is_whole = done == 0
        with open_regular(self.part, "wb" if is_whole else "ab") as file:
            # Written as it arrives: a half-full block of fixed size would be lost when the server breaks off.
            for block in response.iter_bytes():
                done += len(block)
                if self._size_bytes is not None and done > self._size_bytes:
                    self.part.unlink()
                    raise self._other_bytes("sends more bytes")
                file.write(block)
                self._on_progress(done, self._size_bytes)
        # A chunked answer marks its own end, so a shorter one is another file and not broken off.
        if is_whole and "Transfer-Encoding" in response.headers and done < (self._size_bytes or 0):
            self.part.unlink()
            raise self._other_bytes(f"has {done:,} bytes")


def _total(response: httpx2.Response) -> int | None:
    """Return the length of the whole file, None if the server does not tell it."""
    _, _, total = response.headers.get("Content-Range", "").partition("/")
    # The length of a compressed answer is not the length of the file.
    if response.status_code == httpx2.codes.OK and "Content-Encoding" not in response.headers:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdecimal() else None
