"""Files on a local (or mounted) disk, written so that a power cut or SIGKILL never leaves a torn one.

Every write goes to a temporary name in the same folder and is synced before the final name exists; the
final name appears by an exclusive hard link, which exactly one of several writers gets.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pseudoris.store.files.key_order import path_key, sorted_externally
from pseudoris.store.files.storage import Kind, ListedFile, MayDescend, StoredFile, Upload, checked_twice
from pseudoris.store.files.storage_errors import listing_errors, printable

logger = logging.getLogger(__name__)

# Hidden, and without the ending of any table: no glob of ours or of a reader's finds one.
TEMPORARY_PREFIX: Final = ".tmp-"
# A process number and a nonce: what is named otherwise was not written here, whatever it begins with.
_TEMPORARY: Final = re.compile(r"\.tmp-\d+-[0-9a-f]{16}")

# Device and inode: what a folder is, by whatever name it was reached.
_Identity = tuple[int, int]
# Key, name, size and time of a file, identity of a folder.
_Entry = tuple[str, str, int | None, int | None, _Identity | None]


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder on disk, as `Storage` describes it.

    Links to files are followed, and links to folders too, unless they lead back to a folder that they
    lie in. Pipes, sockets and devices are no files.

    Attributes:
        root: Absolute path.
        faults: What a disk may raise.
        max_readers: One: a shard is one of many that are read at once, and threads hide no latency of a disk.
    """

    root: Path
    faults: tuple[type[Exception], ...] = (OSError,)
    max_readers: int = 1

    def uri(self, path: str = "") -> str:
        """Return the absolute path."""
        return str(self.root / path)

    def kind(self, path: str) -> Kind:
        """Return what stands at `path`, links followed."""
        try:
            mode = (self.root / path).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "folder" if stat.S_ISDIR(mode) else "file"

    def stat(self, path: str) -> StoredFile:
        """Return the file as it stands now; anything but a regular file counts as none."""
        found = (self.root / path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{printable(self.uri(path))} is no regular file")
        return StoredFile(path, found.st_size, mtime_ns=found.st_mtime_ns)

    def read(self, path: str) -> bytes:
        """Return the whole file."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for reading; a pipe of that name is refused before it could block."""
        if self.kind(path) != "folder":  # which the system refuses, by an error that says so
            self.stat(path)
        return (self.root / path).open("rb")

    def open_version(
        self, path: str, expected: StoredFile, *, window_bytes: int = 0
    ) -> AbstractContextManager[BinaryIO]:
        """Open the expected version, which is checked before and after: a disk reads on no condition."""
        return checked_twice(self, path, expected)

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the finished files directly in `folder`, in no order; nothing where it does not exist."""
        for entry in self._scan(folder):
            if not entry.name.startswith(TEMPORARY_PREFIX) and entry.is_file() and (found := _stat(entry)):
                yield ListedFile(entry.name, found.st_size, found.st_mtime)

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the files in the order of their keys; memory does not grow with their number."""
        shut = [_identity(self.root.stat())]
        if exclude is not None and Path(exclude).exists():
            shut.append(_identity(Path(exclude).stat()))
        yield from self._walk((), may_descend, frozenset(shut))

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (seconds since the epoch) of what killed writers left in `folder`."""
        for entry in self._scan(folder):
            is_ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and (found := _stat(entry)):
                yield entry.name, found.st_mtime

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield nothing: a disk has none."""
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        """Do nothing: none is ever listed."""

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`, synced; False where it already stands, untouched."""
        target = self.root / path
        temporary = self._write_temporary(path, data)
        try:
            is_created = _link_once(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return is_created

    def put(self, path: str, data: bytes) -> None:
        """Write the file with `data`, synced, in place of whatever stands there."""
        target = self.root / path
        temporary = self._write_temporary(path, data)
        try:
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def temporary_path(self, path: str) -> Path:
        """Return a new path beside `path`, in a folder that exists, under a name that no listing shows."""
        target = self.root / path
        _make_folder(target.parent)
        return target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"

    def put_file(self, path: str, local: Path) -> None:
        """Move a file of the same file system, synced, in place of whatever stands there."""
        target = self.root / path
        _make_folder(target.parent)
        with local.open("rb") as file:
            os.fsync(file.fileno())
        local.replace(target)
        _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        """Delete the file; nothing happens where there is none."""
        (self.root / path).unlink(missing_ok=True)

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            # pathlib's iterdir would need a second system call a file for type and size.
            with os.scandir(self.root / folder) as entries:
                yield from entries
        except FileNotFoundError:
            return

    def _walk(
        self, parts: tuple[str, ...], may_descend: MayDescend, shut: frozenset[_Identity]
    ) -> Iterator[StoredFile]:
        for _, name, size_bytes, mtime_ns, identity in sorted_externally(self._entries(parts)):
            path = (*parts, name)
            if identity is None:
                yield StoredFile("/".join(path), size_bytes, mtime_ns=mtime_ns)
            elif may_descend(path):
                if identity in shut:
                    shown = printable(self.uri("/".join(path)))
                    logger.info("not listed, as it leads back or holds the output: %s", shown)
                else:
                    yield from self._walk(path, may_descend, shut | {identity})

    def _entries(self, parts: tuple[str, ...]) -> Iterator[_Entry]:
        folder = "/".join(parts)
        with listing_errors("list", printable(self.uri(folder)), faults=self.faults):
            yield from filter(None, map(_entry, self._scan(folder)))

    def _write_temporary(self, path: str, data: bytes) -> Path:
        temporary = self.temporary_path(path)
        try:
            with _refusals(), temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # A full disk must not be kept full by our own leavings.
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _entry(entry: os.DirEntry[str]) -> _Entry | None:
    """Return an entry of a folder as a record that sorts where its keys do; None for what is no file or folder."""
    key, found = path_key(entry.name), _stat(entry)
    if found is None:
        # A link that leads nowhere was meant as an input: it is planned, and quarantined as missing.
        return key, entry.name, None, None, None
    if stat.S_ISREG(found.st_mode):
        return key, entry.name, found.st_size, found.st_mtime_ns, None
    # With the slash, folders stand among files where the keys of what they hold do.
    return (f"{key}/", entry.name, None, None, _identity(found)) if stat.S_ISDIR(found.st_mode) else None


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what the entry is; None where it vanished since it was listed, or is a link that leads nowhere."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
    except OSError:
        if entry.is_symlink():
            return None  # a link to itself
        raise


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _link_once(temporary: Path, target: Path) -> bool:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        # NFS may carry the link out and lose the answer; its retry then says EEXIST. The count tells.
        return temporary.stat().st_nlink == 2
    return True


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn "no such file" of what is created in a folder that stands into the refusal that it is: so /proc says no.

    Upwards FileNotFoundError means that a file was looked for and is not there.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), error.filename) from error


def _make_folder(folder: Path) -> None:
    """Create `folder`, and sync the folder above each one that is new: a synced file in a lost folder is lost."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        with _refusals():
            folder.mkdir(exist_ok=True)
    except FileExistsError:
        # Upwards FileExistsError means that a file was created before; here a file stands in the way.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
