"""The folder of downloaded weights on this machine: its files, their locks, and the record of their digests.

`download.py` and `weight_files.py` fill it; `model_folder.py` reads it. A digest that was recorded at the first
download must never change, so that a run never continues with other bytes than it began with.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from filelock import FileLock, Timeout

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_regular, parse_json
from pseudoris.primitives.uris import named_path
from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.published_weights import (
    OPEN_CLIP_PREFIX,
    PublishedFile,
    cached_names,
    published_file,
)

logger = logging.getLogger(__name__)

FOLDER_VARIABLE: Final = "PSEUDORIS_WEIGHTS"
PINS_NAME: Final = "pins.json"
_LOCKS_FOLDER: Final = ".locks"
_NAME_ANOTHER: Final = f"Set {FOLDER_VARIABLE} to a folder that you can write to"


@dataclass(frozen=True, slots=True)
class Pin:
    """What a published file was when it was first fetched; `revision` is its commit, if its repository has any."""

    sha256: str
    size_bytes: int
    revision: str = ""


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of weights, at an absolute path that need not exist.

    Its methods raise a `ConfigError` if other users may write to it, or it cannot be written or its record not read.
    """

    folder: Path
    # Other users may write to the folder only if the user named it, because a team may share such a folder.
    is_named: bool

    def path(self, name: str) -> Path:
        """Return where the file of that name lies, or would lie."""
        found: os.stat_result | None = None
        if not self.is_named:
            with suppress(OSError):
                found = self.folder.lstat()
        if found and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise ConfigError(
                f"{self.folder} holds downloaded weights, but is not a folder that only this user can write to "
                f"(owner {found.st_uid}, {stat.filemode(found.st_mode)}): remove it, or set {FOLDER_VARIABLE} to a "
                "folder that you trust"
            )
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


def user_cache() -> WeightCache:
    """Return the cache of this process: the folder that `PSEUDORIS_WEIGHTS` names, else the user's own."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return WeightCache(named_path(named), is_named=True)
    # A relative `XDG_CACHE_HOME` is ignored, as the XDG specification says.
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
