"""The cache of downloaded weights with their digests; fetches published files into it, for `weights` and runs.

Digests and urls of files of the Hugging Face hub are asked of its own library; the bytes are not: its version 2 throws
away what it has of a file when a download breaks off.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
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
from pseudoris.schemas.untrusted import file_sha256, open_linked, open_regular, parse_json
from pseudoris.schemas.uris import named_path
from pseudoris.workers.checkpoints.download import RETRIED_STATUSES, OnProgress, RemoteFile, download
from pseudoris.workers.checkpoints.published_weights import (
    OPEN_CLIP_PREFIX,
    PublishedFile,
    cached_names,
    published_file,
)

logger = logging.getLogger(__name__)

# The system waits for a name server without regard to our timeout, so a thread asks and is given up.
DEADLINE_S: Final = 4.0
_MEMORY_S: Final = 30.0
HUB_TIMEOUT_S: Final = 5.0
_HUB_ATTEMPTS: Final = 5
# On the hub the etag of a large file is its sha256. That of a small file is another hash.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")

FOLDER_VARIABLE: Final = "PSEUDORIS_WEIGHTS"
PINS_NAME: Final = "pins.json"
_LOCKS_FOLDER: Final = ".locks"
_NAME_ANOTHER: Final = f"Set {FOLDER_VARIABLE} to a folder that you can write to"


class UnreachableError(ConfigError):
    """The server of a file does not answer at all: there is no network, or none that leads there."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What a published file was when it was first fetched.

    Attributes:
        sha256: Of its bytes.
        revision: Commit of its repository, empty if it has none.
    """

    sha256: str
    size_bytes: int
    revision: str = ""


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of weights.

    Its methods raise a `ConfigError` if other users may write to it, or it cannot be written or its record not read.

    Attributes:
        folder: Absolute; need not exist.
        is_named: Whether the user named it. Then others may be allowed to write to it: a shared folder of a team.
    """

    folder: Path
    is_named: bool

    def path(self, name: str) -> Path:
        """Return where the file of that name lies, or would lie."""
        self._check_owner()
        return self.folder / name

    def make_folder(self, name: str) -> Path:
        """Return `path(name)`, in a folder that exists."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"weights cannot be stored in {self.folder}: {error}. {_NAME_ANOTHER}") from error
        return path

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write, which has its name after the block unless that raises. Hold its lock meanwhile."""
        target = self.make_folder(name)
        partial = target.with_name(f"{target.name}.copy")
        with open_regular(partial, "wb") as file:
            try:
                yield file
                file.flush()
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a file's lock for the block; another process that writes the file waits, and then finds it."""
        path = self.make_folder(f"{_LOCKS_FOLDER}/{name.replace('/', '--')}.lock")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process writes %s: waiting for it", self.folder / name)
            lock.acquire()
        except OSError as error:
            raise ConfigError(f"{path} cannot be locked: {error.strerror}. {_NAME_ANOTHER}") from error
        try:
            yield
        finally:
            lock.release()

    def pins(self) -> Mapping[str, Pin]:
        """Return what was recorded of fetched files, by name."""
        path = self.path(PINS_NAME)
        try:
            with open_regular(path) as file:
                tree: dict[str, Any] = parse_json(file.read())
            return {name: Pin(**pin) for name, pin in tree.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}, the record of the digests of downloaded weights, cannot be read ({error}): restore it, or "
                "delete it, and the weights are taken as they are at the next download"
            ) from error

    def pin(self, name: str) -> Pin | None:
        """Return what was recorded of a file here, else in the user's own cache; None if neither knows it."""
        found = self.pins().get(name)
        return found if found is not None or self == user_cache() else user_cache().pins().get(name)

    def known_sha256(self, published: PublishedFile, name: str) -> str | None:
        """Return the digest of a published file under one of its names: as published, else as it was first fetched."""
        pin = None if published.sha256 else self.pin(name)
        return published.sha256 if pin is None else pin.sha256

    def add_pin(self, name: str, pin: Pin) -> None:
        """Record what a file is; a file that is recorded keeps its record."""
        with self.lock(PINS_NAME):
            pins = {**{name: pin}, **self.pins()}
            text = json.dumps({each: asdict(pin) for each, pin in sorted(pins.items())}, indent=1)
            with self.new_file(PINS_NAME) as file:
                file.write(f"{text}\n".encode())

    def _check_owner(self) -> None:
        if self.is_named:
            return
        try:
            found = self.folder.lstat()
        except OSError:
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ConfigError(
                f"{self.folder} holds downloaded weights, but is not a folder that only this user can write to "
                f"(owner {found.st_uid}, {stat.filemode(found.st_mode)}): remove it, or set {FOLDER_VARIABLE} to a "
                "folder that you trust"
            )


def user_cache() -> WeightCache:
    """Return the cache of this process: the folder that `PSEUDORIS_WEIGHTS` names, else the user's own."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return WeightCache(named_path(named), is_named=True)
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        base = base.expanduser()
        base = base if base.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError(f"this user has no home folder: set {FOLDER_VARIABLE} to a folder for weights") from None
    return WeightCache(base / "pseudoris" / "weights", is_named=False)


def found_files(weights: WeightsConfig) -> Iterator[tuple[str, Path]]:
    """Yield the files of a path or hub tag that this machine has, the one to use first, by their names in a cache.

    They lie where the path says, in the user's cache, and in that of the hub's own library. Nothing is downloaded.
    """
    names, published = cached_names(weights), published_file(weights)
    if not weights.uri.startswith(OPEN_CLIP_PREFIX) and Path(weights.uri).is_file():
        yield (names[0] if names else weights.uri), Path(weights.uri)
    yield from ((name, path) for name in names if (path := user_cache().path(name)).is_file())
    if published is not None and (copy := published.hub_copy()) is not None:
        yield published.name_at(copy), copy


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
    # The answer is kept for a short time: the files of a preset ask in a row, and a network may return.
    return _unreachable(origin, int(time.monotonic() / _MEMORY_S))


@functools.lru_cache(maxsize=8)
def _unreachable(origin: str, now: int) -> str | None:
    answers: list[str | None] = []

    def ask() -> None:
        try:
            httpx2.head(origin, timeout=DEADLINE_S)
            answers.append(None)
        # ValueError and ImportError come from a proxy variable that is not a usable proxy.
        except (httpx2.HTTPError, ValueError, ImportError) as error:
            text = str(error) or type(error).__name__
            # A bad certificate proves that the host is reachable. The request that follows reports it.
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


def located(published: PublishedFile, cache: WeightCache) -> RemoteFile:
    """Return where a file is, and what it must be, after asking the hub for a file of it. Raises as `fetch`."""
    check_reachable(published.url)
    repo, files, revision = published.repo, published.files, published.revision
    if not repo:
        return RemoteFile(published.name, published.url, published.sha256, published.size_bytes)
    name, pin = next(((name, pin) for name in files if (pin := cache.pin(name))), ("", None))
    if pin:
        # The files are taken from the commit of the first fetch, even if newer ones were published since.
        files, revision = {name: files[name]}, pin.revision or revision
    for name, filename in files.items():
        ask = partial(get_hf_file_metadata, hf_hub_url(repo, filename, revision=revision), timeout=HUB_TIMEOUT_S)
        try:
            found = ask_hub(f"{repo}/{filename}", repo, ask)
        except EntryNotFoundError:
            continue
        sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        # The url names the commit, so that a part of one version is not continued with another.
        url = hf_hub_url(repo, filename, revision=found.commit_hash)
        if pin and sha256 not in (None, pin.sha256):
            raise ConfigError(
                f"{url} has sha256 {sha256} now; at its first use it had {pin.sha256}, which {cache.path(PINS_NAME)} "
                f"records. To take the new file, remove {name} from that record; a run that used the first one cannot "
                "be continued with it"
            )
        sha256 = pin.sha256 if pin else sha256
        return RemoteFile(name, url, sha256, found.size, found.commit_hash or "", build_hf_headers())
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
        return error.response.status_code in RETRIED_STATUSES
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
        # The hub's own library names a stored file by its digest.
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
        # Another process, or a person, may have put the file there.
        sha256 = file_sha256(target) if target.is_file() else ""
        if not sha256 or remote.sha256 not in (None, sha256):
            sha256 = download(remote, target, on_progress)
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
