"""Puts published weights into a cache for `weights get` and for a run: from a copy on this machine, else their source.

Digests and urls of files of the Hugging Face hub are asked of its own library; the bytes are not: its version 2 throws
away what it has of a file when a download breaks off.
"""

from __future__ import annotations

import functools
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from tenacity import Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.untrusted import file_sha256, open_linked, open_regular, parse_json, read_regular
from pseudoris.workers.checkpoints.download import OnProgress, RemoteFile, download
from pseudoris.workers.checkpoints.model_folder import (
    CONFIG_NAME,
    INDEX_NAME,
    NAMES,
    SINGLE_NAME,
    hub_model,
    shard_names,
)
from pseudoris.workers.checkpoints.published_weights import PublishedFile, published_file
from pseudoris.workers.checkpoints.weight_cache import PINS_NAME, Pin, WeightCache, found_files, user_cache

# A name server that does not answer is waited for by the system, without regard to a timeout of ours.
DEADLINE_S: Final = 4.0
_MEMORY_S: Final = 30.0
_HUB_TIMEOUT_S: Final = 5.0
_HUB_ATTEMPTS: Final = 5
_SERVER_ERRORS: Final = frozenset({408, 429, *range(500, 600)})
# The etag of a large file of the hub is its sha256; that of a small one is another hash.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


def unreachable_reason(url: str) -> str | None:
    """Return why the server of a url cannot be reached, as a short text; None if it answers anything at all.

    Told within seconds: without a network, retries and name servers take minutes.
    """
    parsed = httpx2.URL(url)
    origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}/"
    # The files of a preset ask one after the other, and a network may return.
    return _unreachable(origin, int(time.monotonic() / _MEMORY_S))


@functools.lru_cache(maxsize=8)
def _unreachable(origin: str, now: int) -> str | None:
    answers: list[str | None] = []

    def ask() -> None:
        try:
            httpx2.head(origin, timeout=DEADLINE_S)
            answers.append(None)
        # The latter two: a proxy in the environment that is none.
        except (httpx2.HTTPError, ValueError, ImportError) as error:
            text = str(error) or type(error).__name__
            # Its certificate is the business of the request that follows.
            answers.append(None if "CERTIFICATE" in text.upper() else text)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(DEADLINE_S)
    return answers[0] if answers else f"no answer within {DEADLINE_S:.0f} s"


def ask_early(weights: Iterable[WeightsConfig]) -> None:
    """Ask the servers of all files that are missing here, at the same time: `fetch` then knows their answers."""
    missing = (published_file(each) for each in weights if not any(found_files(each)))
    with ThreadPoolExecutor() as pool:
        list(pool.map(unreachable_reason, {each.url for each in missing if each is not None}))


def remote_file(published: PublishedFile) -> tuple[str, RemoteFile, str]:
    """Ask the hub for a file: its name in the cache, of those that exist, what and where it is, and the commit.

    Raises:
        ConfigError: The hub has no such file, or gives it only to those who are logged in.
        TransientError: The hub does not answer.
    """
    repo = published.repo
    for name, filename in published.files.items():
        url = hf_hub_url(repo, filename, revision=published.revision)
        try:
            found = _asked(f"{repo}/{filename}", repo, partial(get_hf_file_metadata, url, timeout=_HUB_TIMEOUT_S))
        except EntryNotFoundError:
            continue
        sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        # By the commit, so that no other version is put behind a part of this one.
        pinned = hf_hub_url(repo, filename, revision=found.commit_hash)
        return name, RemoteFile(pinned, sha256, found.size, build_hf_headers()), found.commit_hash or ""
    raise ConfigError(f"the hub's repository {repo} has none of the files {', '.join(published.files.values())}")


def _asked(what: str, repo: str, ask: Callable[[], T]) -> T:
    """Return the hub's answer; `what` is asked for, of `repo`. Raises as `remote_file`, with the hub's own message."""
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(_HUB_ATTEMPTS),
        wait=wait_exponential_jitter(initial=1, max=10),
        reraise=True,
    )
    try:
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
        return error.response.status_code in _SERVER_ERRORS
    return isinstance(error, httpx2.HTTPError) and not isinstance(error, httpx2.TooManyRedirects)


class UnreachableError(ConfigError):
    """The server of a file does not answer at all: there is no network, or none that leads there."""


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
        ConfigError: The server refuses it, or its bytes are not those that are published or were fetched before.
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
        # The hub's library files a copy under its digest.
        blob = copy.resolve().name
        known = cache.known_sha256(published, name) or (blob if _SHA256.fullmatch(blob) else None)
        if known is not None and file_sha256(copy) == known:
            return _copied(copy, name, cache, Pin(known, copy.stat().st_size))
    try:
        name, remote, commit = located(published, cache)
    except UnreachableError:
        if unproved is None:
            raise
        return unproved
    target = cache.make_folder(name)
    with cache.lock(name):
        # Another process, or a person, may have put it there.
        if not target.is_file() or remote.sha256 not in (None, file_sha256(target)):
            download(remote, target, on_progress=on_progress)
        cache.add_pin(name, Pin(remote.sha256 or file_sha256(target), target.stat().st_size, commit))
    return target


def _unreachable_hub() -> str | None:
    return "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else unreachable_reason(constants.ENDPOINT)


def fetch_folder(
    uri: str, cache: WeightCache, *, on_progress: Callable[[str], OnProgress] = lambda _: lambda *_: None
) -> Path:
    """Return the folder of MODEL@COMMIT in `cache`, after downloading those of its files that are missing or changed.

    `on_progress` gives, by a file's name in the cache, what is told of its download. `config.json` comes last: a folder
    with it is whole.

    Raises:
        UnreachableError, ConfigError, TransientError: As `fetch`; or the repository has no such commit, is gated, or
            has no weights as safetensors.
    """
    repo, commit = hub_model(uri) or ("", "")

    def get(name: str) -> Path:
        published = PublishedFile({f"{uri}/{name}": name}, repo, revision=commit)
        places = (user_cache().path(published.name), published.hub_copy())
        copies = [(published.name, copy) for copy in places if copy is not None and copy.is_file()]
        return fetch(published, cache, copies=copies, on_progress=on_progress(published.name))

    # Whole: then nothing is asked unless a file was changed.
    pins = {**user_cache().pins(), **cache.pins()}
    names = [name.removeprefix(f"{uri}/") for name in pins if name.startswith(f"{uri}/")]
    if CONFIG_NAME not in names:
        if reason := _unreachable_hub():
            raise UnreachableError(f"{httpx2.URL(constants.ENDPOINT).host} cannot be reached ({reason})")
        ask = partial(HfApi().model_info, repo, revision=commit, timeout=_HUB_TIMEOUT_S)
        present = {each.rfilename for each in _asked(f"model '{uri}'", repo, ask).siblings or ()}
        names = [name for part in NAMES.values() for name in part if name in present]
        if SINGLE_NAME in present:
            names.append(SINGLE_NAME)
        elif INDEX_NAME in present:
            names += shard_names(parse_json(read_regular(get(INDEX_NAME))), uri)
        else:
            raise ConfigError(f"model '{uri}' has no weights as safetensors, and pickles are not loaded: take another")
    for name in sorted(names, key=lambda name: (name == CONFIG_NAME, name)):
        get(name)
    return cache.path(uri)


def _copied(copy: Path, name: str, cache: WeightCache, pin: Pin) -> Path:
    target = cache.make_folder(name)
    with cache.lock(name):
        partial = target.with_name(f"{target.name}.copy")
        try:
            with open_linked(copy) as source, open_regular(partial, "wb") as file:
                shutil.copyfileobj(source, file)
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ConfigError(f"{copy} cannot be copied to {target}: {error.strerror}") from error
    cache.add_pin(name, cache.pin(name) or pin)
    return target


def located(published: PublishedFile, cache: WeightCache) -> tuple[str, RemoteFile, str]:
    """Return a file's name in the cache, what to ask its server for, and its commit, after asking the hub for it.

    Raises as `fetch`.
    """
    reason = _unreachable_hub() if published.repo else unreachable_reason(published.url)
    if reason is not None:
        raise UnreachableError(f"{httpx2.URL(published.url).host} cannot be reached ({reason})")
    if not published.repo:
        ((name, url),) = published.files.items()
        return name, RemoteFile(url, published.sha256, published.size_bytes), ""
    pinned = next((name for name in published.files if cache.pin(name)), None)
    pin = cache.pin(pinned) if pinned else None
    if pinned and pin:
        # The same file of the same commit, whatever was published since.
        only = {pinned: published.files[pinned]}
        published = replace(published, files=only, revision=pin.revision or published.revision)
    name, remote, commit = remote_file(published)
    if pin and remote.sha256 not in (None, pin.sha256):
        raise ConfigError(
            f"{remote.url} has sha256 {remote.sha256} now; at its first use it had {pin.sha256}, which "
            f"{cache.path(PINS_NAME)} records. To take the new file, remove {pinned} from that record; a run that "
            "used the first one cannot be continued with it"
        )
    return name, replace(remote, sha256=remote.sha256 or (pin.sha256 if pin else None)), commit
