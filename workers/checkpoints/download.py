"""Gets a published file into the cache of weights: asks its server what it must be, and downloads it over HTTP.

Called by `weight_files.py`, and by `model_folder.py` for each file of a folder. A file may get its name only when
it is complete and its digest is right; a download that broke off is continued, also by a later process. A missing
network is told within seconds.

The hub's own library says digests and urls of its files. It does not download: its version 2 throws away what it has of
a file when a download breaks off (docs/records/decisions.md has what was tried).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from pseudoris.files.hub_client import bounded_answers, refuse_link_local
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.primitives.untrusted import file_sha256, open_linked, open_regular
from pseudoris.workers.checkpoints.weight_cache import PINS_NAME, Pin, PublishedFile, WeightCache

logger = logging.getLogger(__name__)
T = TypeVar("T")

# This callback gets the number of bytes on disk, and the size of the whole file, None if it is not known.
OnProgress = Callable[[int, int | None], None]
_CONNECT_TIMEOUT_S: Final = 5.0
# If a server sends nothing for this many seconds, the connection counts as broken.
_READ_TIMEOUT_S: Final = 30.0
# This many attempts in a row without a byte end the download: half a minute of refusals, or three minutes of silence.
_MAX_IDLE_ATTEMPTS: Final = 6
# A download has at most this many attempts: a server may ignore ranges, and break off a little later each time.
_MAX_ATTEMPTS: Final = 100
_SERVES_OTHER_BYTES: Final = "Run the command again; if it repeats, the server or a proxy serves other bytes"
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})
# A server has this many seconds to answer. A thread asks it, because the name lookup ignores our timeout.
DEADLINE_S: Final = 4.0
# A server's answer is used again for this many seconds, for all files of a preset. Later it may be outdated.
_MEMORY_S: Final = 30.0
HUB_TIMEOUT_S: Final = 5.0
_HUB_ATTEMPTS: Final = 5
# On the hub the etag of a large file is its sha256. The etag of a small file is another hash, and does not match.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class UnreachableError(ConfigError):
    """The server of a file does not answer at all: there is no network, or none that leads there."""


def check_reachable(url: str) -> None:
    """Raise an UnreachableError unless the server of a url answers anything at all."""
    is_off = constants.is_offline_mode() and url.startswith(constants.ENDPOINT)
    if reason := "HF_HUB_OFFLINE is set" if is_off else unreachable_reason(url):
        raise UnreachableError(f"{httpx2.URL(url).host} cannot be reached ({reason})")


def unreachable_reason(url: str) -> str | None:
    """Return why the server of a url cannot be reached, as a short text; None if it answers anything at all.

    Told within seconds: without a network, retries and name servers take minutes.
    """
    parsed = httpx2.URL(url)
    origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}/"
    return _unreachable(origin, int(time.monotonic() / _MEMORY_S))


@functools.lru_cache(maxsize=8)
def _unreachable(origin: str, now: int) -> str | None:
    answers: list[str | None] = []

    def ask() -> None:
        try:
            httpx2.head(origin, timeout=DEADLINE_S)
            answers.append(None)
        # httpx2 raises ValueError and ImportError for a proxy variable that names no usable proxy.
        except (httpx2.HTTPError, ValueError, ImportError) as error:
            text = str(error) or type(error).__name__
            # A bad certificate proves that the host is reachable. The download that follows reports the certificate.
            answers.append(None if "CERTIFICATE" in text.upper() else text)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(DEADLINE_S)
    return answers[0] if answers else f"no answer within {DEADLINE_S:.0f} s"


def located(published: PublishedFile, cache: WeightCache) -> PublishedFile:
    """Return the one file to get, at a url, and what it must be, after asking the hub for it. Raises as `fetch`."""
    check_reachable(published.url)
    repo, files, revision = published.repo, published.files, published.revision
    if not repo:
        return replace(published, revision="")
    name, pin = next(((name, pin) for name in files if (pin := cache.pin(name))), ("", None))
    if pin:
        # The file is taken from the commit of its first fetch, even if a newer version was published since.
        files, revision = {name: files[name]}, pin.revision or revision
    for name, filename in files.items():
        ask = partial(get_hf_file_metadata, hf_hub_url(repo, filename, revision=revision), timeout=HUB_TIMEOUT_S)
        try:
            found = ask_hub(f"{repo}/{filename}", repo, ask)
        except EntryNotFoundError:
            continue
        sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        # The url names the commit, so that half a file of one version is not continued with another version.
        url = hf_hub_url(repo, filename, revision=found.commit_hash)
        if pin and sha256 not in (None, pin.sha256):
            raise ConfigError(
                f"{url} has sha256 {sha256} now; at its first use it had {pin.sha256}, which {cache.path(PINS_NAME)} "
                f"records. To take the new file, remove {name} from that record; a run that used the first one cannot "
                "be continued with it"
            )
        sha256 = pin.sha256 if pin else sha256
        commit, headers = found.commit_hash or "", build_hf_headers()
        return PublishedFile({name: url}, revision=commit, size_bytes=found.size, sha256=sha256, headers=headers)
    raise ConfigError(f"the hub's repository {repo} has none of the files {', '.join(files.values())}")


def ask_hub(what: str, repo: str, ask: Callable[[], T]) -> T:
    """Return the hub's answer; `what` is asked for, of `repo`. Raises as `fetch`, with the hub's own message.

    EntryNotFoundError: The repository has no such file.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(_HUB_ATTEMPTS),
        wait=wait_exponential_jitter(initial=1, max=10),
        reraise=True,
    )
    try:
        with bounded_answers():
            return retrying(ask)
    except EntryNotFoundError:
        raise
    except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
        said = getattr(error, "server_message", None) or ""
        summary = f"the hub does not give {what}: {' '.join([str(error).splitlines()[0], said]).strip()}"
        if _is_transient(error):
            raise TransientError(summary) from error
        page = f"https://huggingface.co/{repo}"
        if isinstance(error, GatedRepoError):
            remedy = f"Ask for access on {page}, log in with `hf auth login`, and run the command again"
        elif isinstance(error, RevisionNotFoundError):
            remedy = f"There is no such commit, or no longer: take one of {page}/commits/main"
        else:
            remedy = "If the repository asks for consent, log in with `hf auth login`"
        raise ConfigError(f"{summary.removesuffix('.')}. {remedy}") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _RETRIED_STATUSES
    return isinstance(error, httpx2.HTTPError) and not isinstance(error, httpx2.TooManyRedirects)


def fetch(
    published: PublishedFile,
    cache: WeightCache,
    *,
    copies: Iterable[tuple[str, Path]] = (),
    on_progress: OnProgress = lambda *_: None,
) -> Path:
    """Return the file in `cache`; downloaded if neither it nor a right copy is here.

    Args:
        published: What to fetch.
        cache: Where it is put.
        copies: Files that may be the same, by the name that each would have in the cache.
        on_progress: Told of the download.

    Raises:
        UnreachableError: Its server does not answer.
        ConfigError: The server refuses it, its bytes are not those that are published or were fetched before, or the
            disk is full.
        TransientError: The download broke off again and again; another call continues it.
    """
    unproved = None
    for name in published.files:
        path = cache.path(name)
        if path.is_file():
            known = cache.known_sha256(published, name)
            if known is not None and file_sha256(path) == known:
                return path
            unproved = path if known is None else None
    for name, copy in copies:
        # The hub's own library names a file in its cache by the file's digest.
        blob = copy.resolve().name
        known = cache.known_sha256(published, name) or (blob if _SHA256.fullmatch(blob) else None)
        if known is not None and file_sha256(copy) == known:
            return _copied(copy, name, cache, Pin(known, copy.stat().st_size))
    try:
        remote = located(published, cache)
    except UnreachableError:
        if unproved is None:
            raise
        return unproved
    target = cache.make_folder(remote.name)
    with cache.lock(remote.name):
        # While this process waited for the lock, another process or a person may have put the file there.
        sha256 = file_sha256(target) if target.is_file() else ""
        if not sha256 or remote.sha256 not in (None, sha256):
            sha256 = _download(remote, target, on_progress)
        cache.add_pin(remote.name, Pin(sha256, target.stat().st_size, remote.revision))
    return target


def _copied(copy: Path, name: str, cache: WeightCache, pin: Pin) -> Path:
    try:
        with cache.lock(name), cache.new_file(name) as file, open_linked(copy) as source:
            shutil.copyfileobj(source, file)
    except OSError as error:
        raise ConfigError(f"{copy} cannot be copied to {cache.path(name)}: {error.strerror}") from error
    cache.add_pin(name, cache.pin(name) or pin)
    return cache.path(name)


def _download(remote: PublishedFile, target: Path, on_progress: OnProgress) -> str:
    """Write a remote file to `target` and return its sha256; raises as `fetch`."""
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
        with open_regular(transfer.part) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if remote.sha256 not in (None, sha256):
            transfer.part.unlink()
            raise ConfigError(
                f"{remote.url} gave a file with sha256 {sha256}, expected {remote.sha256}: it was not kept. "
                f"{_SERVES_OTHER_BYTES}"
            )
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

    A request names no version: a part of another version ends with a wrong digest, and the files of a commit stay.
    """

    def __init__(self, remote: PublishedFile, part: Path, on_progress: OnProgress) -> None:
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
        hooks = {"request": [refuse_link_local]}
        # The server is asked not to compress, because byte offsets would not fit a compressed file.
        headers = {**self._remote.headers, "Accept-Encoding": "identity"}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
        try:
            with (
                httpx2.Client(follow_redirects=True, timeout=timeout, event_hooks=hooks) as client,
                client.stream("GET", self._remote.url, headers=headers) as response,
            ):
                self._receive(response)
        except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol) as error:
            # This is not retried, because a retry would be redirected in the same way.
            raise ConfigError(
                f"{self._remote.url} cannot be downloaded: it redirects without end, or to no web server "
                f"({error}). Check the url, and the proxy in between"
            ) from error
        except httpx2.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if self._size_bytes is not None and self.offset < self._size_bytes:
            raise TransientError(f"the connection ended after {self.offset:,} of {self._size_bytes:,} bytes")

    def _receive(self, response: httpx2.Response) -> None:
        is_all_here = response.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE and self.offset > 0
        if response.status_code in _RETRIED_STATUSES:
            raise TransientError(f"the server answers {response.status_code} {response.reason_phrase}")
        if response.is_error and not is_all_here:
            raise ConfigError(
                f"{self._remote.url} cannot be downloaded: the server answers {response.status_code} "
                f"{response.reason_phrase}"
            )
        # The length is checked before a byte is written: a proxy's error page must not replace what was downloaded.
        sent = response.headers.get("Content-Range", "")
        length = sent.partition("/")[2]
        # The length of a compressed answer is not the length of the file, so it does not count.
        if response.status_code == httpx2.codes.OK and "Content-Encoding" not in response.headers:
            length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if self._remote.size_bytes is not None and total not in (None, self._remote.size_bytes):
            raise self._other_bytes(f"has {total:,} bytes")
        if is_all_here:
            if total != self.offset and (total is not None or self._size_bytes is not None):
                self.part.unlink()
                raise TransientError("the part is longer than the file")
            return
        is_rest = response.status_code == httpx2.codes.PARTIAL_CONTENT
        if is_rest and not sent.startswith(f"bytes {self.offset}-"):
            self.part.unlink(missing_ok=True)
            raise TransientError(f"the server sent another range: {sent}")
        if self._remote.size_bytes is None:
            # A range may arrive without the length of the whole file. Then the length known so far stays.
            self._size_bytes = total or self._size_bytes
        # A status 200 means that the server ignores ranges and sends the whole file, so writing starts at byte 0.
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
            # Bytes are written as they arrive, because a half-full block would be lost when the server breaks off.
            for block in response.iter_bytes():
                done += len(block)
                if self._size_bytes is not None and done > self._size_bytes:
                    self.part.unlink()
                    raise self._other_bytes("sends more bytes")
                file.write(block)
                self._on_progress(done, self._size_bytes)
        # A chunked answer marks its own end. If it is too short, it was not broken off: it is another file.
        if is_whole and "Transfer-Encoding" in response.headers and done < (self._size_bytes or 0):
            self.part.unlink()
            raise self._other_bytes(f"has {done:,} bytes")
