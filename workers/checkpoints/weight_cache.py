"""The folder of downloaded weights that all commands share, and the digests that its files must have."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.regular_files import open_regular
from pseudoris.schemas.uris import named_path

FOLDER_VARIABLE: Final = "PSEUDORIS_WEIGHTS"
PINS_NAME: Final = "pins.json"
_LOCKS_FOLDER: Final = ".locks"
_NAME_ANOTHER: Final = f"Set {FOLDER_VARIABLE} to a folder that you can write to"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """What a published file was when it was first fetched.

    Attributes:
        sha256: Of its bytes.
        size_bytes: Its length.
        revision: Commit of its repository, empty if it has none.
    """

    sha256: str
    size_bytes: int
    revision: str = ""


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of weights.

    Attributes:
        folder: Absolute; need not exist.
        is_named: Whether the user named it. Then others may be allowed to write to it: a shared folder of a team.
    """

    folder: Path
    is_named: bool

    def path(self, name: str) -> Path:
        """Return where the file of that name lies, or would lie.

        Raises:
            ConfigError: Other users may write to the cache.
        """
        self._check_owner()
        return self.folder / name

    def make_folder(self, name: str) -> Path:
        """Return `path(name)`, in a folder that exists.

        Raises:
            ConfigError: Other users may write to the cache, or it cannot be created.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"weights cannot be stored in {self.folder}: {error}. {_NAME_ANOTHER}") from error
        return path

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a file's lock for the block; another process that writes the file waits, and then finds it.

        Raises:
            ConfigError: The cache cannot be written.
        """
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
        """Return what was recorded of fetched files, by name.

        Raises:
            ConfigError: The record cannot be read.
        """
        path = self.path(PINS_NAME)
        try:
            tree: dict[str, Any] = parse_json(_read(path))
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

    def pinned_sha256(self, name: str) -> str | None:
        """Return the digest of `pin`."""
        pin = self.pin(name)
        return None if pin is None else pin.sha256

    def add_pin(self, name: str, pin: Pin) -> None:
        """Record what a file is; a file that is recorded keeps its record."""
        with self.lock(PINS_NAME):
            pins = {**{name: pin}, **self.pins()}
            path = self.path(PINS_NAME)
            text = json.dumps({each: asdict(pin) for each, pin in sorted(pins.items())}, indent=1)
            partial = path.with_name(f"{PINS_NAME}.{secrets.token_hex(8)}")
            with open_regular(partial, "x") as file:
                file.write(f"{text}\n")
            partial.replace(path)

    def _check_owner(self) -> None:
        """Refuse a folder in which another user could replace weights."""
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
    """Return the cache of this process: the folder that `PSEUDORIS_WEIGHTS` names, else the user's own.

    Raises:
        ConfigError: The variable is not set, and the user has no home.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return WeightCache(named_path(named), is_named=True)
    # The XDG specification ignores a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        base = base.expanduser()
        base = base if base.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError(f"this user has no home folder: set {FOLDER_VARIABLE} to a folder for weights") from None
    return WeightCache(base / "pseudoris" / "weights", is_named=False)


def _read(path: Path) -> str:
    with open_regular(path, "r") as file:
        return str(file.read())


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
