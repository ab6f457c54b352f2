"""Finds and verifies weights files, without torch: local files, fsspec urls, open_clip's hub tags, shipped files."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import fsspec

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.weight_cache import file_sha256, user_cache
from pseudoris.workers.checkpoints.weight_catalogue import (
    BUILTIN_PREFIX,
    OPEN_CLIP_PREFIX,
    RANDOM_PREFIX,
    HubSource,
    PublishedFile,
    cached_names,
    published_file,
)
from pseudoris.workers.checkpoints.weight_remedies import MissingWeightsError

_COPY_BLOCK_BYTES = 2**20
# Of the cache: copies of urls.
_URLS_FOLDER = "urls"
logger = logging.getLogger(__name__)
# Keys under which S3, GCS, Azure, web servers and disks give a file's version. A new file under the same url has
# another.
_VERSION_KEYS = (
    "size",
    "ETag",
    "etag",
    "Content-MD5",
    "content_md5",
    "md5Hash",
    "generation",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


def random_seed(weights: WeightsConfig) -> int | None:
    """Return the seed of `random:<seed>`, else None.

    Raises:
        ConfigError: No whole number follows the prefix.
    """
    if not weights.uri.startswith(RANDOM_PREFIX):
        return None
    text = weights.uri.removeprefix(RANDOM_PREFIX)
    if not text.isdecimal():
        raise ConfigError(f"weights '{weights.uri}': '{RANDOM_PREFIX}' needs a whole number, got '{text}'")
    return int(text)


def local_file(weights: WeightsConfig) -> Path:
    """Return a local path of the weights. A remote file or hub tag is first downloaded to the cache of weights.

    A relative path below `checkpoints/` that does not exist is looked for in the cache.

    Raises:
        ConfigError: The file is missing or cannot be downloaded; the message says how to get it.
        TransientError: The download broke off again and again.
    """
    if weights.uri.startswith(BUILTIN_PREFIX):
        return _builtin_file(weights)
    if "://" in weights.uri:
        return _remote_file(weights)
    found = found_file(weights)
    if found is not None:
        return found
    published = published_file(weights)
    if weights.uri.startswith(OPEN_CLIP_PREFIX) and published is not None:
        return _fetched(published, weights)
    raise MissingWeightsError(weights, "there is no such file")


def found_file(weights: WeightsConfig) -> Path | None:
    """Return the file of a path, url or hub tag that this machine has, None if it has none. Nothing is downloaded.

    Raises:
        ConfigError: open_clip knows no such tag, or other users may write to the cache.
    """
    if "://" in weights.uri:
        # Without a digest, only the store knows which version of the file is the present one.
        copy = _url_copy(weights, weights.sha256) if weights.sha256 else None
        return copy if copy is not None and copy.is_file() else None
    path = Path(weights.uri)
    if not weights.uri.startswith(OPEN_CLIP_PREFIX) and path.is_file():
        return path
    names = cached_names(weights)
    in_cache = (user_cache().path(name) for name in names)
    return next((each for each in in_cache if each.is_file()), None) or _hub_copy(weights)


def _hub_copy(weights: WeightsConfig) -> Path | None:
    """The file that the hub's own library has in its cache."""
    published = published_file(weights)
    if published is None or not isinstance(published.source, HubSource):
        return None
    from pseudoris.workers.checkpoints.hub import hub_cached_file

    return hub_cached_file(published.source)


def weights_digest(weights: WeightsConfig) -> str:
    """Return the sha256 of a weights file, or of the uri itself for `random:<seed>`, as 64 hex digits.

    Raises:
        ConfigError: The file is missing, or its digest is not `sha256`.
    """
    if random_seed(weights) is not None:
        return hashlib.sha256(weights.uri.encode()).hexdigest()
    return verified_digest(weights, local_file(weights))


def _builtin_file(weights: WeightsConfig) -> Path:
    """A file shipped in this package."""
    resource = files("pseudoris.workers.checkpoints").joinpath(weights.uri.removeprefix(BUILTIN_PREFIX))
    with as_file(resource) as path:
        if not path.is_file():
            raise MissingWeightsError(weights, "the package holds no such file")
        return path


def _fetched(published: PublishedFile, weights: WeightsConfig) -> Path:
    """Downloads a published file."""
    # Imported here: only a download needs a client of the web.
    from pseudoris.workers.checkpoints.weight_fetch import UnreachableError, fetch

    # A run says nothing for minutes otherwise.
    logger.warning("downloading the weights '%s' to %s", weights.uri, user_cache().folder)
    try:
        return fetch(published, user_cache())
    except UnreachableError as error:
        raise MissingWeightsError(weights, str(error)) from error


def _remote_file(weights: WeightsConfig) -> Path:
    """Downloads an fsspec url once, into the cache of weights; again if the file behind the url changes."""
    try:
        # With a digest, no request to the store is needed: a file under this name was verified when it was downloaded.
        target = _url_copy(weights, weights.sha256 or _remote_version(weights.uri))
        if not target.is_file():
            user_cache().make_folder(f"{_URLS_FOLDER}/{target.name}")
            _fetch(weights, target)
    except (OSError, ValueError, ImportError) as error:
        # A web client says "not found" of a server that is down, and keeps the reason.
        reason = error.__cause__ or error
        raise MissingWeightsError(weights, f"it cannot be fetched: {type(reason).__name__}: {reason}") from error
    return target


def _url_copy(weights: WeightsConfig, version: str) -> Path:
    """Where the copy of one version of the file behind a url lies, or would lie."""
    name = hashlib.sha256(f"{weights.uri} {version}".encode()).hexdigest()[:24] + Path(weights.uri).suffix
    return user_cache().path(f"{_URLS_FOLDER}/{name}")


def _remote_version(uri: str) -> str:
    """Size of the file behind an fsspec url, with its digest and time if the store gives them."""
    filesystem, path = fsspec.url_to_fs(uri)
    info = filesystem.info(path)
    return " ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)


def _fetch(weights: WeightsConfig, target: Path) -> None:
    """Writes the whole remote file to `target`, or nothing."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out:
        partial = Path(out.name)
        try:
            with fsspec.open(weights.uri, "rb") as source:
                shutil.copyfileobj(source, out, _COPY_BLOCK_BYTES)
            out.close()
            verified_digest(weights, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def verified_digest(weights: WeightsConfig, path: Path) -> str:
    """Return the sha256 of a file that `local_file` returned. Raises: ConfigError: It is not the expected one."""
    found = file_sha256(path)
    if weights.sha256 is not None and found != weights.sha256:
        raise ConfigError(
            f"weights '{weights.uri}' have sha256 {found}, expected {weights.sha256}: "
            "the file was changed or is another version; get it again, or remove weights.sha256"
        )
    known = expected_sha256(weights, path)
    if known not in (None, found):
        raise ConfigError(
            f"weights '{weights.uri}': {path} has sha256 {found}, but {known} is published or was fetched before. "
            f"Get it again: pseudoris weights get {weights.uri}"
        )
    return found


def expected_sha256(weights: WeightsConfig, path: Path) -> str | None:
    """Return the digest that a found file must have, None if any is accepted.

    A file that lies where the configuration says is the user's own, and only `weights.sha256` binds it.
    """
    if weights.sha256 is not None or path == Path(weights.uri):
        return weights.sha256
    published = published_file(weights)
    if published is None:
        return None
    name = next((each for each in published.names if each.endswith(path.name)), published.names[0])
    return published.sha256 or user_cache().pinned_sha256(name)
