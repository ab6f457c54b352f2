"""Storage on a local or mounted disk, opened by `location`: a power cut or SIGKILL never leaves a partial file.

Each write goes to a temporary file in the same folder, which is synced before it gets its final name. `create_once`
gives the name by an exclusive hard link, so that only one of several writers succeeds. Other writes rename the file.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, TypeVar

from pseudoris.files.key_order import path_key, sorted_externally
from pseudoris.files.storage import (
    Kind,
    LackingError,
    ListedFile,
    Mark,
    MayDescend,
    Storage,
    StoredFile,
    listing_errors,
    shown_uri,
    verdict_of,
)
from pseudoris.primitives.untrusted import open_regular, refuse_links

logger = logging.getLogger(__name__)

# Temporary files have hidden names without the suffix of tables, so that no glob over tables finds them.
TEMPORARY_PREFIX: Final = ".tmp-"
# A temporary file of pseudoris has a process id and a nonce in its name. Other files with the prefix are left alone.
_TEMPORARY: Final = re.compile(r"\.tmp-\d+-[0-9a-f]{16}")

# A write is tried at most this many times, because gc may delete the temporary file of a writer that is slow.
_MAX_WRITES: Final = 3
_T = TypeVar("_T")

# These errors tell of the state of a disk, a server or this process. Once a file was written, every other one of a
# link or of a folder's sync says that the file system cannot do it: FUSE, SMB and FAT each have numbers of their own.
_STATES: Final = frozenset(
    (
        *(errno.ENOENT, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE),
        *(errno.ENFILE, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT),
        *(errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNRESET),
        *(errno.ECONNREFUSED, errno.EINTR),
    )
)

# Device and inode identify a folder even if it has several paths.
_Identity = tuple[int, int]
_UNKNOWN: Final[_Identity] = (-1, -1)
# An entry has a key, a name, the size and modification time (ns) of a file, and the identity of a folder.
_Entry = tuple[str, str, int | None, int | None, _Identity | None]


@dataclass(frozen=True, slots=True)
class LocalStorage(Storage):
    """The folder `root` on disk, as `Storage` describes it.

    Links to files and folders are followed, except a link to a folder that contains the link. Without `follows_links`,
    for a folder that others may have written, a link below the root is a `ConfigError`, and an obstacle in listings.
    Pipes, sockets and devices do not count as files.
    """

    faults: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    # One thread reads a shard's images: other shards are read at the same time, so more threads would not help a disk.
    max_readers: ClassVar[int] = 1

    root: Path
    follows_links: bool = True

    def uri(self, path: str = "") -> str:
        """Return the absolute path."""
        return str(self.root / path)

    def kind(self, path: str) -> Kind:
        """Return what exists at `path`. Links are followed."""
        try:
            mode = self._at(path).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "folder" if stat.S_ISDIR(mode) else "file"

    def stat(self, path: str) -> StoredFile:
        """Return the file's current version. Anything but a regular file counts as missing."""
        found = self._at(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{shown_uri(self.uri(path))} is not a regular file")
        return StoredFile(path, found.st_size, mtime_ns=found.st_mtime_ns)

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for reading. A pipe is refused, because opening it would block."""
        target = self._at(path)
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder raises a clear error
            raise FileNotFoundError(f"{shown_uri(self.uri(path))} is not a regular file")
        return target.open("rb") if self.follows_links else open_regular(target)

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the finished files directly in `folder`, in any order; nothing if it does not exist."""
        for entry in self._scan(folder):
            if _TEMPORARY.fullmatch(entry.name) or not entry.name.startswith(name_prefix):
                continue
            if not self.follows_links and entry.is_symlink():
                continue
            if (found := _stat(entry)) and stat.S_ISREG(found.st_mode):
                yield ListedFile(entry.name, found.st_size, found.st_mtime)

    def obstacle(self, path: str) -> str | None:
        """Return what is at `path` if it is not a file: a folder, a pipe, a link that leads nowhere."""
        place = self.root / path
        if not self.follows_links and place.is_symlink():
            return "a link"
        try:
            mode = place.stat().st_mode
        except OSError:
            return "a link that leads nowhere" if place.is_symlink() else None
        if stat.S_ISREG(mode):
            return None
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        return next((what for is_kind, what in kinds if is_kind(mode)), "a device")

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and kind of what is directly in `folder` and not a file."""
        for entry in self._scan(folder):
            if entry.is_file(follow_symlinks=False):
                continue
            if what := self.obstacle(f"{folder}/{entry.name}" if folder else entry.name):
                yield entry.name, what

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the files in the order of their keys; memory does not grow with their number."""
        with listing_errors("look at", shown_uri(self.uri()), faults=self.faults):
            shut = [_identity(self.root.stat())]
        if exclude is not None and Path(exclude).exists():
            shut.append(_identity(Path(exclude).stat()))
        yield from self._walk((), may_descend, frozenset(shut), mark)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of files that killed writers left in `folder`."""
        for entry in self._scan(folder):
            is_ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and (found := _stat(entry)):
                yield entry.name, found.st_mtime

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`, synced. If it exists, return False and change nothing."""
        target = self._at(path)
        return self._write(target, data, lambda temporary: _link_once(temporary, target))

    def put(self, path: str, data: bytes) -> None:
        """Write `data` to the file, synced, and replace any existing file."""
        target = self._at(path)
        self._write(target, data, lambda temporary: temporary.replace(target))

    def temporary_path(self, path: str) -> Path:
        """Return a new path beside `path`, with a name that listings skip. The folder is created."""
        return _beside(self._at(path))

    def put_file(self, path: str, local: Path) -> None:
        """Sync a file of the same file system, move it to `path`, and replace any existing file."""
        target = self._at(path)
        _make_folder(target.parent)
        with local.open("rb") as file:
            os.fsync(file.fileno())
        local.replace(target)
        _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        """Delete the file if it exists."""
        self._at(path).unlink(missing_ok=True)

    def delete_empty(self, folder: str) -> None:
        """Delete a folder that is empty."""
        with suppress(OSError):
            self._at(folder).rmdir()

    def _at(self, path: str) -> Path:
        if not self.follows_links:
            refuse_links(self.root, path)
        return self.root / path

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            # `scandir` already gives the type of each entry. With `iterdir`, each type would need another system call.
            with os.scandir(self._at(folder)) as entries:
                yield from entries
        except FileNotFoundError:
            return

    def _walk(
        self, parts: tuple[str, ...], may_descend: MayDescend, shut: frozenset[_Identity], mark: Mark | None
    ) -> Iterator[StoredFile]:
        for _, name, size_bytes, mtime_ns, identity in sorted_externally(self._entries(parts)):
            path = (*parts, name)
            if identity is None:
                yield StoredFile("/".join(path), size_bytes, mtime_ns=mtime_ns)
            elif may_descend(path):
                if identity in shut:
                    shown = shown_uri(self.uri("/".join(path)))
                    logger.info("skipped a folder that is the output or a link to a folder above it: %s", shown)
                elif mark is None or not mark.closes("/".join(path)):
                    yield from self._walk(path, may_descend, shut | {identity}, mark)

    def _entries(self, parts: tuple[str, ...]) -> Iterator[_Entry]:
        """Yield the files and folders of a folder as records that sort by their keys."""
        folder = "/".join(parts)
        with listing_errors("list", shown_uri(self.uri(folder)), faults=self.faults):
            for entry in self._scan(folder):
                key, found = path_key(entry.name), _stat(entry)
                if found is None and entry.is_dir(follow_symlinks=False):
                    # The folder may hold images, so it is listed. That raises an error if the folder is unreadable.
                    yield f"{key}/", entry.name, None, None, _UNKNOWN
                elif found is None:
                    # A broken link may stand for an image, so it is planned. The image is quarantined when it is read.
                    yield key, entry.name, None, None, None
                elif stat.S_ISREG(found.st_mode):
                    yield key, entry.name, found.st_size, found.st_mtime_ns, None
                elif stat.S_ISDIR(found.st_mode):
                    # A folder is sorted by its name with a slash, because the keys of its files have that slash.
                    yield f"{key}/", entry.name, None, None, _identity(found)

    def _write(self, target: Path, data: bytes, give_name: Callable[[Path], _T]) -> _T:
        """Write a temporary file and return what `give_name` returns; a file that gc has taken is written again."""
        for _ in range(_MAX_WRITES):
            temporary = _beside(target)
            try:
                with _refusals(), temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                answer = give_name(temporary)
            except FileNotFoundError:
                continue
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(temporary.parent)
            return answer
        # FileNotFoundError is not raised, because callers would conclude that the file at `path` is missing.
        raise OSError(errno.EAGAIN, f"its temporary file was deleted {_MAX_WRITES} times before it had its name")


def _beside(target: Path) -> Path:
    """Return a new path for a temporary file. The folder is created."""
    _make_folder(target.parent)
    return target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of the entry; None if it vanished since the listing, or cannot be looked at."""
    try:
        return entry.stat()
    except OSError as error:
        if verdict_of(error) == "store":
            raise
        return None


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _link_once(temporary: Path, target: Path) -> bool:
    try:
        with _needed("hard links", target.parent):
            target.hardlink_to(temporary)
    except FileExistsError:
        # NFS may create the link, lose the answer, and fail the retry with EEXIST. Two links prove that it is ours.
        return temporary.stat().st_nlink == 2
    return True


@contextmanager
def _needed(what: str, folder: Path) -> Iterator[None]:
    """Convert errors of the block, but `_STATES`, to a `LackingError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _STATES:
            raise
        where = f"{_mounted(folder)}: {error.strerror}"
        said = (
            f"the file system does not support {what}, which a safe commit needs ({where}). "
            "Name an output on another disk, such as ext4, XFS, NFS or Lustre, or a bucket by its url "
            "(s3://bucket/prefix) in place of its mount; then copy it"
        )
        raise LackingError(error.errno, said) from error


def _mounted(folder: Path) -> str:
    """Return the type of the file system of a folder, and where it is mounted."""
    place, found = str(folder.resolve()), ("", "unknown")
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return f"that of {shown_uri(place)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        # Blanks and the like are written as octal numbers; later mounts hide earlier ones of their place.
        point = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), before.split(" ")[4])
        if len(point) >= len(found[0]) and f"{place}/".startswith(f"{point.rstrip('/')}/"):
            found = (point, after.split(" ")[0])
    return f"{found[1]}, mounted at {shown_uri(found[0])}"


@contextmanager
def _refusals() -> Iterator[None]:
    """Convert FileNotFoundError to PermissionError: some existing folders refuse new files that way, such as /proc."""
    try:
        yield
    except FileNotFoundError as error:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), error.filename) from error


def _make_folder(folder: Path) -> None:
    """Create `folder` and sync the parent of each new one, or a crash may lose the folder with its synced files."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        with _refusals():
            folder.mkdir(exist_ok=True)
    except FileExistsError:
        # A file has the folder's name. FileExistsError would say that the file to be written exists already.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _needed("a sync of folders", folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
