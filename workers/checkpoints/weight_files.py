"""The entry to all weights: turns a `weights.uri` into a local file and its sha256, or into an error with the remedy.

A uri names a local file, a model folder, an fsspec url, a hub tag, a shipped file, or random weights. Called by
`pipeline`, `workers/stages.py` and engines for digests, by `tensor_files.py` for loading, by `training`, and by the
commands `weights` and `doctor`. Imports no torch, and no client of the hub until one is needed. No file may be used
before its digest is compared, if one is known.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pseudoris.files.filesystems import client_errors, filesystem_at, open_location
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import file_sha256
from pseudoris.primitives.uris import BUILTIN_PREFIX, named_path
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config, preset_names
from pseudoris.workers.checkpoints.model_folder import (
    ModelFolder,
    check_installed,
    fetch_folder,
    hub_model,
    names_folder,
)
from pseudoris.workers.checkpoints.weight_cache import (
    OPEN_CLIP_PREFIX,
    RANDOM_PREFIX,
    SEE_SOURCE,
    WeightCache,
    cached_names,
    found_files,
    open_clip_file,
    published_file,
    random_seed,
    user_cache,
)
from pseudoris.workers.checkpoints.weight_headers import check_weight_header

if TYPE_CHECKING:
    from pseudoris.workers.checkpoints.download import OnProgress

logger = logging.getLogger(__name__)

_COPY_BLOCK_BYTES: Final = 2**20
# This folder of the cache has the copies of files behind urls.
_URLS_FOLDER: Final = "urls"
# S3, GCS, Azure, web servers and disks give the version of a file under these keys.
_VERSION_KEYS: Final = (
    *("size", "ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "generation"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created"),
)


class MissingWeightsError(ConfigError):
    """Weights are missing; the message says how to get them, by a command that gets all weights of `preset`."""

    def __init__(self, weights: WeightsConfig, why: str = "there is no such file", preset: str = "") -> None:
        super().__init__(_missing(weights, why, preset))
        self._weights, self._why = weights, why

    def of_preset(self, preset: str) -> MissingWeightsError:
        """Return the error with the command of `preset`, so that a run without any weights names one command."""
        return MissingWeightsError(self._weights, self._why, preset)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str]]:
        """Return what pickle needs: the message alone."""
        return ConfigError, (str(self),)


def _missing(weights: WeightsConfig, why: str, preset: str) -> str:
    """Return the message, on one line: urls and commands in it can be copied."""
    command = ""
    if weights.uri.startswith(BUILTIN_PREFIX):
        command = "reinstall the package, or train them in a clone: make weights"
    elif published_file(weights) is not None:
        uris = dict[str, frozenset[str]]()
        for name in preset_names():
            config = load_config(name)
            uris[name] = frozenset(stage.weights.uri for stage in (config.masks, config.captions, config.filtering))
        presets = [name for name, found in uris.items() if weights.uri in found]
        # A preset is named only if all presets with this file have the same files. Otherwise the file is named.
        alone = presets[0] if len({uris[name] for name in presets}) == 1 else weights.uri
        command = f"pseudoris weights get {preset if preset in presets else alone}"
    by_user = "put the file there, or set weights.uri to its path, or to OWNER/NAME@COMMIT for a model of the hub"
    shown = "; or: ".join(filter(None, (command, weights.how_to_get))) or by_user
    return f"weights '{weights.uri}' are not available: {why}. To get them: {shown}{_by_hand(weights)}"


def _by_hand(weights: WeightsConfig, cache: WeightCache | None = None) -> str:
    published = published_file(weights)
    if published is None:
        return ""
    target = (cache or user_cache()).path(published.name)
    facts = [f"{published.size_bytes:,} bytes"] if published.size_bytes else []
    facts += [f"sha256 {published.sha256}"] if published.sha256 else []
    known = f" ({', '.join(facts)})" if facts else ""
    or_else = ""
    if len(published.files) > 1:
        *_, other = published.files.values()
        or_else = f"; if the repository has no such file, take {other} instead, and keep its name"
    return f". By hand: download {published.url} and put it at {target}{known}{or_else}"


def local_file(weights: WeightsConfig) -> Path:
    """Return a local path of the weights. A remote file or hub tag is first downloaded to the cache of weights.

    A relative path below `checkpoints/` that does not exist is looked for in the cache. Raises as `fetch`; the message
    for a missing file says how to get it.
    """
    if weights.uri.startswith(BUILTIN_PREFIX):
        resource = files("pseudoris.workers.checkpoints").joinpath(weights.uri.removeprefix(BUILTIN_PREFIX))
        with as_file(resource) as path:
            if not path.is_file():
                raise MissingWeightsError(weights, "the package holds no such file")
            return path
    if "://" in weights.uri:
        return _remote_file(weights)
    if names_folder(weights.uri):
        raise ConfigError(f"weights '{weights.uri}' are a model folder, and this engine reads one file: name a file")
    found = found_file(weights)
    if found is not None:
        return found
    if not weights.uri.startswith(OPEN_CLIP_PREFIX):
        raise MissingWeightsError(weights)
    from pseudoris.workers.checkpoints.download import fetch

    # The download is logged, because a run would otherwise be silent for minutes.
    logger.warning("downloading the weights '%s' to %s", weights.uri, user_cache().folder)
    with _asking(weights):
        return fetch(open_clip_file(weights), user_cache())


def found_file(weights: WeightsConfig) -> Path | None:
    """Return the file of weights that this machine has, None if it has none. Nothing is downloaded."""
    if weights.uri.startswith(BUILTIN_PREFIX):
        return local_file(weights)
    if "://" in weights.uri:
        # Without a digest only the server can tell whether a copy is current, so no copy counts as found.
        copy = _url_copy(weights, weights.sha256) if weights.sha256 else None
        return copy if copy is not None and copy.is_file() else None
    return next((path for _, path in found_files(weights)), None)


def weights_digest(weights: WeightsConfig) -> str:
    """Return the sha256 of a weights file, or of the uri itself for `random:<seed>`, as 64 hex digits."""
    if random_seed(weights) is not None:
        return hashlib.sha256(weights.uri.encode()).hexdigest()
    return verified_digest(weights, local_file(weights))


def tensors_digest(weights: WeightsConfig) -> str:
    """Return the digest of weights that our loaders read; a file in which they could find no tensors is refused."""
    if random_seed(weights) is not None:
        return weights_digest(weights)
    path = local_file(weights)
    check_weight_header(path, f"weights '{weights.uri}'")
    return verified_digest(weights, path)


def folder_digest(weights: WeightsConfig) -> str:
    """Return the sha256 of the model folder that the weights name; ConfigErrors, also if there is no transformers."""
    check_installed()
    found = ModelFolder.open(weights.uri).sha256
    if weights.sha256 not in (None, found):
        raise ConfigError(
            f"model '{weights.uri}' has sha256 {found}, expected {weights.sha256}: the folder was changed or is of "
            "another commit; get it again, or remove weights.sha256"
        )
    return found


def is_missing(weights: WeightsConfig) -> bool:
    """Return whether a published file is not on this machine; a run may download it."""
    return published_file(weights) is not None and found_file(weights) is None


def is_awaited(weights: WeightsConfig) -> bool:
    """Return whether a run may have to download the file: only the store of a url without a digest knows."""
    return ("://" in weights.uri or weights.uri.startswith(OPEN_CLIP_PREFIX)) and found_file(weights) is None


def is_unfetched(weights: WeightsConfig) -> bool:
    """Return whether the file behind a url or hub tag is not here. If not, its store must have it."""
    if not is_awaited(weights):
        return False
    if "://" in weights.uri:
        return not _present_copy(weights).is_file()
    from pseudoris.workers.checkpoints.download import located

    with _asking(weights):
        located(open_clip_file(weights), user_cache())
    return True


@contextmanager
def _asking(weights: WeightsConfig) -> Iterator[None]:
    """Convert what the store of a url, or the hub, raises."""
    from pseudoris.workers.checkpoints.download import UnreachableError

    try:
        yield
    except UnreachableError as error:
        raise MissingWeightsError(weights, str(error)) from error
    except (OSError, ValueError, ImportError) as error:
        # A web client reports "not found" for a server that is down. The cause of its error has the real reason.
        reason = error.__cause__ or error
        raise MissingWeightsError(weights, f"it cannot be fetched: {type(reason).__name__}: {reason}") from error


def _present_copy(weights: WeightsConfig) -> Path:
    """Where the copy of the file behind a url lies, or would lie, after asking the store whether there is the file."""
    with _asking(weights):
        filesystem, path = filesystem_at(weights.uri)
        with client_errors(weights.uri):
            info = filesystem.info(path)
    version = " ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)
    return _url_copy(weights, weights.sha256 or version)


def _remote_file(weights: WeightsConfig) -> Path:
    """Downloads an fsspec url once, into the cache of weights; again if the file behind the url changes."""
    # With a digest the server is not asked, because a copy under this name was checked when it was downloaded.
    target = _url_copy(weights, weights.sha256) if weights.sha256 else _present_copy(weights)
    name, cache = f"{_URLS_FOLDER}/{target.name}", user_cache()
    if target.is_file():
        return target
    with cache.lock(name), _asking(weights):
        # While this process waited for the lock, another process may have put the file there.
        if not target.is_file():
            with cache.new_file(name) as file:
                with client_errors(weights.uri), open_location(weights.uri) as source:
                    shutil.copyfileobj(source, file, _COPY_BLOCK_BYTES)
                file.flush()
                verified_digest(weights, Path(file.name))
    return target


def _url_copy(weights: WeightsConfig, version: str) -> Path:
    """Where the copy of one version of the file behind a url lies, or would lie."""
    suffix = Path(re.split("[?#]", weights.uri)[0]).suffix
    name = hashlib.sha256(f"{weights.uri} {version}".encode()).hexdigest()[:24] + suffix
    return user_cache().path(f"{_URLS_FOLDER}/{name}")


def verified_digest(weights: WeightsConfig, path: Path) -> str:
    """Return the sha256 of a file that `local_file` returned, after comparing it with the one that it must have."""
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
    return user_cache().known_sha256(published, published.name_at(path))


def ask_early(weights: Iterable[WeightsConfig]) -> None:
    """Ask the servers of all files that are missing here, at the same time: `fetch` then knows their answers."""
    from pseudoris.workers.checkpoints.download import unreachable_reason

    missing = (published_file(each) for each in weights if not any(found_files(each)))
    with ThreadPoolExecutor() as pool:
        list(pool.map(unreachable_reason, {each.url for each in missing if each is not None}))


def get_weights(weights: WeightsConfig, to: Path | None, on_progress: Callable[[str], OnProgress]) -> Path | str:
    """Return where a file or folder of weights lies, or why it needs no place; downloaded to `to`, else to the cache.

    `on_progress` gives, by a file's name in the cache, what is told of its download. Raises as `fetch`.
    """
    from pseudoris.workers.checkpoints.download import UnreachableError, fetch

    cache = user_cache() if to is None else WeightCache(named_path(to), is_named=True)
    is_folder, published = names_folder(weights.uri), published_file(weights)
    if is_folder and hub_model(weights.uri) is not None:
        fetch_folder(weights.uri, cache, on_progress=on_progress)
        return ModelFolder.open(weights.uri, cache).path
    if published is None:
        if not is_folder:
            weights_digest(weights)
        if weights.uri.startswith((BUILTIN_PREFIX, RANDOM_PREFIX)):
            return f"{weights.uri} (nothing to download)"
        path = ModelFolder.open(weights.uri).path if is_folder else local_file(weights)
        return path if to is None else f"{path} (your own file: carry it yourself)"
    try:
        path = fetch(published, cache, copies=found_files(weights), on_progress=on_progress(published.name))
    except UnreachableError as error:
        raise ConfigError(f"weights '{weights.uri}' are not available: {error}{_by_hand(weights, cache)}") from error
    if weights.sha256 is not None:
        verified_digest(weights, path)
    return path


MODEL_CARD: Final = "tiny/MODEL_CARD.md"
_UNKNOWN: Final = "known once it is fetched"


def weight_facts(weights: WeightsConfig) -> tuple[str, dict[str, str], Path | None]:
    """Return what is known of a weights file without a network: its name, facts to show, and where it lies here.

    The name is its path relative to the cache, or the configured uri. The facts are licence, size, sha256 and source.
    """
    if weights.uri.startswith(RANDOM_PREFIX):
        return weights.uri, _facts("–", "–", "–", "drawn at random: untrained"), None
    if names_folder(weights.uri):
        return _folder_facts(weights)
    found = found_file(weights)
    published, pins = published_file(weights), map(user_cache().pin, cached_names(weights))
    pin = next(filter(None, pins), None)
    size = found.stat().st_size if found else (published.size_bytes if published else None) or (pin and pin.size_bytes)
    sha256 = weights.sha256 or (published.sha256 if published else None) or (pin.sha256 if pin else None)
    shown_size, name = f"{size:,} bytes" if size else _UNKNOWN, weights.uri
    if weights.uri.startswith(BUILTIN_PREFIX):
        card = files("pseudoris.workers.checkpoints").joinpath(MODEL_CARD)
        facts = _facts("Apache-2.0", shown_size, sha256 or "–", f"shipped in the package: {card}")
    elif published is None:
        facts = _facts(SEE_SOURCE, shown_size, sha256 or "not given", "your own file")
    else:
        name = published.name_at(found) if found else published.name
        facts = _facts(published.licence, shown_size, sha256 or _UNKNOWN, published.url)
    return name, facts, found


def _facts(licence: str, size: str, sha256: str, source: str) -> dict[str, str]:
    return {"licence": licence, "size": size, "sha256": sha256, "source": source}


def _folder_facts(weights: WeightsConfig) -> tuple[str, dict[str, str], Path | None]:
    model, found, size = hub_model(weights.uri), None, _UNKNOWN
    try:
        folder = ModelFolder.open(weights.uri)
    except ConfigError:
        # The folder is missing or incomplete. `weights get` and `weights check` report it.
        pass
    else:
        found = folder.path
        names = [name for names in folder.files.values() for name in names]
        size = f"{sum((found / name).stat().st_size for name in names):,} bytes in {len(names)} files"
    source = f"https://huggingface.co/{model[0]}/tree/{model[1]}" if model else "your own folder"
    return weights.uri, _facts(SEE_SOURCE, size, weights.sha256 or "see weights check", source), found


def check_weights(weights: WeightsConfig, preset: str = "") -> tuple[bool, str]:
    """Return whether the file is here and has the digest that it must have, and what was found or must be done.

    The network is not asked. A run uses a person's own file in the working folder under a published file's name, so
    that is told. `preset` is the one that is checked, if it is one.
    """
    if weights.uri.startswith(RANDOM_PREFIX):
        return True, "drawn at random"
    try:
        if names_folder(weights.uri):
            folder = ModelFolder.open(weights.uri)
            is_known = "as it must be" if folder.recorded or weights.sha256 else "no digest to compare it with"
            return True, f"{folder.path}  sha256 {folder_digest(weights)}, {is_known}"
        found = found_file(weights)
    except ConfigError as error:
        return False, str(error)
    if found is None and "://" in weights.uri and weights.sha256 is None:
        return False, f"{weights.uri}: give weights.sha256, or only its store knows whether a copy here is current"
    if found is None:
        return False, str(MissingWeightsError(weights, preset=preset))
    published = published_file(weights)
    known = expected_sha256(weights, found) or (published.sha256 if published else None)
    sha256 = file_sha256(found)
    if known in (None, sha256):
        return True, f"{found}  sha256 {sha256}, {'as it must be' if known else 'no digest to compare it with'}"
    remedy = "a run in this folder uses it" if found == Path(weights.uri) else "get it again"
    return False, f"{found} has sha256 {sha256}, expected {known}: it is not the published file; {remedy}"
