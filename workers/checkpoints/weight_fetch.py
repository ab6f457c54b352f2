"""Puts published weights into a cache: from a copy that this machine has, else from their source."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.regular_files import open_linked, open_regular
from pseudoris.workers.checkpoints.download import OnProgress, RemoteFile, download
from pseudoris.workers.checkpoints.hub import hub_unreachable_reason, remote_file
from pseudoris.workers.checkpoints.reachability import ask_servers, host, unreachable_reason
from pseudoris.workers.checkpoints.weight_cache import PINS_NAME, Pin, WeightCache, file_sha256
from pseudoris.workers.checkpoints.weight_catalogue import HubSource, PublishedFile, published_file
from pseudoris.workers.checkpoints.weight_files import found_file
from pseudoris.workers.checkpoints.weight_remedies import source_url


class UnreachableError(ConfigError):
    """The server of a file does not answer at all: there is no network, or none that leads there."""


def ask_early(weights: Iterable[WeightsConfig]) -> None:
    """Ask the servers of all files that are missing here, at the same time, so that no later answer is waited for.

    Raises:
        ConfigError: open_clip knows no such tag, or the cache cannot be read.
    """
    missing = (published_file(each) for each in weights if found_file(each) is None)
    ask_servers(source_url(each) for each in missing if each is not None)


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
    for name in published.names:
        path = cache.path(name)
        if path.is_file():
            known = published.sha256 or cache.pinned_sha256(name)
            if known is not None and file_sha256(path) == known:
                return path
            unproved = path if known is None else None
    for name, copy in copies:
        known = published.sha256 or cache.pinned_sha256(name) or _blob_sha256(copy)
        if known is not None and file_sha256(copy) == known:
            return _copied(copy, name, cache, Pin(known, copy.stat().st_size))
    reason = _unreachable_reason(published)
    if reason is None:
        return _downloaded(published, cache, on_progress)
    if unproved is not None:
        return unproved
    raise UnreachableError(f"{host(source_url(published))} cannot be reached ({reason})")


def _unreachable_reason(published: PublishedFile) -> str | None:
    return hub_unreachable_reason() if isinstance(published.source, HubSource) else unreachable_reason(published.source)


def _blob_sha256(copy: Path) -> str | None:
    """Return the digest by which the hub's library has filed a copy, None if it is no copy of its."""
    name = copy.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _copied(copy: Path, name: str, cache: WeightCache, pin: Pin) -> Path:
    """Copies a file that was found right, and records what it is."""
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


def _downloaded(published: PublishedFile, cache: WeightCache, on_progress: OnProgress) -> Path:
    name, remote, commit = _remote(published, cache)
    target = cache.make_folder(name)
    with cache.lock(name):
        # Another process, or a person, may have put it there.
        if not target.is_file() or remote.sha256 not in (None, file_sha256(target)):
            download(remote, target, on_progress=on_progress)
        cache.add_pin(name, Pin(remote.sha256 or file_sha256(target), target.stat().st_size, commit))
    return target


def _remote(published: PublishedFile, cache: WeightCache) -> tuple[str, RemoteFile, str]:
    """Return a file's name in the cache, what to ask its server for, and its commit."""
    if not isinstance(published.source, HubSource):
        (name,) = published.names
        remote = RemoteFile(published.source, published.sha256, published.size_bytes)
        return name, remote, ""
    names, source = published.names, published.source
    pinned = next((name for name in names if cache.pin(name)), None)
    pin = cache.pin(pinned) if pinned else None
    if pinned and pin:
        # The same file of the same commit, whatever was published since.
        filename = source.filenames[names.index(pinned)]
        names, source = (pinned,), replace(source, filenames=(filename,), revision=pin.revision or source.revision)
    index, remote, commit = remote_file(source)
    if pin and remote.sha256 not in (None, pin.sha256):
        raise ConfigError(
            f"{remote.url} has sha256 {remote.sha256} now; at its first use it had {pin.sha256}, which "
            f"{cache.path(PINS_NAME)} records. To take the new file, remove {pinned} from that record; a run that "
            "used the first one cannot be continued with it"
        )
    return names[index], replace(remote, sha256=remote.sha256 or (pin.sha256 if pin else None)), commit
