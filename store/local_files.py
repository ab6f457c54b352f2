"""Files on a local (or mounted) disk, written so that a power cut or SIGKILL never leaves a torn one.

Every write goes to a temporary name in the same folder and is synced before the final name exists; the
final name appears by an exclusive hard link, which exactly one of several writers gets.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

# Hidden, and without the ending of any table: no glob of ours or of a reader's finds one.
TEMPORARY_PREFIX: Final = ".tmp-"
# A process number and a nonce: what is named otherwise was not written here, whatever it begins with.
_TEMPORARY: Final = re.compile(r"\.tmp-\d+-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of one folder.

    Attributes:
        name: In its folder.
        size_bytes: Its size.
        modified_s: When it was written, seconds since the epoch by the storage's clock.
    """

    name: str
    size_bytes: int
    modified_s: float


class LocalFiles:
    """Durable whole-file operations below one absolute folder; paths are relative, with `/`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, path: str) -> str:
        """Return the absolute path."""
        return str(self._root / path)

    def open(self, path: str) -> BinaryIO:
        """Return the file opened for reading, seekable."""
        return (self._root / path).open("rb")

    def size(self, path: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        try:
            return (self._root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the finished files directly in `folder`, in no order; nothing where it does not exist."""
        for entry in self._scan(folder):
            if not entry.name.startswith(TEMPORARY_PREFIX) and entry.is_file() and (found := _stat(entry)):
                yield ListedFile(entry.name, found.st_size, found.st_mtime)

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (seconds since the epoch) of what killed writers left in `folder`."""
        for entry in self._scan(folder):
            is_ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and (found := _stat(entry)):
                yield entry.name, found.st_mtime

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`, synced; False where it already stands, untouched."""
        target = self._root / path
        temporary = self._write_temporary(path, data)
        try:
            is_created = _link_once(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return is_created

    def put(self, path: str, data: bytes) -> None:
        """Write the file with `data`, synced, in place of whatever stands there."""
        target = self._root / path
        temporary = self._write_temporary(path, data)
        try:
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def temporary_path(self, path: str) -> Path:
        """Return a new path beside `path`, in a folder that exists, under a name that no listing shows."""
        target = self._root / path
        _make_folder(target.parent)
        return target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"

    def put_file(self, path: str, local: Path) -> None:
        """Move a file of the same file system, synced, in place of whatever stands there."""
        target = self._root / path
        _make_folder(target.parent)
        with local.open("rb") as file:
            os.fsync(file.fileno())
        local.replace(target)
        _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        """Delete the file; nothing happens where there is none."""
        (self._root / path).unlink(missing_ok=True)

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            # pathlib's iterdir would need a second system call a file for type and size.
            with os.scandir(self._root / folder) as entries:
                yield from entries
        except FileNotFoundError:
            return

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


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what the file is; None where a living writer took it away since it was listed."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


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
