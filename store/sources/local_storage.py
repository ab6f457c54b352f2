"""Files on a disk, listed in the order of their keys, with times to the nanosecond."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from store.sources.items import MayDescend, StoredFile
from store.sources.keys import path_key
from store.sources.sorting import sorted_externally
from store.sources.versions import looked_at_twice
from store.storage_errors import storage_errors

logger = logging.getLogger(__name__)

# Device and inode: what a folder is, by whatever name it was reached.
_Identity = tuple[int, int]
# Key, name, size and time of a file, identity of a folder.
_Entry = tuple[str, str, int | None, int | None, _Identity | None]


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder on disk.

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

    def describe(self, path: str = "") -> str:
        """Return the full path, printable also where a name is not UTF-8."""
        return os.fsencode(self.root / path).decode("utf-8", "backslashreplace")

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what stands at `path`, links followed."""
        with storage_errors("look at", self.describe(path)):
            try:
                mode = (self.root / path).stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                return None
        return "folder" if stat.S_ISDIR(mode) else "file"

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the files in the order of their keys; memory does not grow with their number."""
        shut = [_identity(self.root.stat())]
        if exclude is not None and Path(exclude).exists():
            shut.append(_identity(Path(exclude).stat()))
        yield from self._walk((), may_descend, frozenset(shut))

    def stat(self, path: str) -> StoredFile:
        """Return the file as it stands now; anything but a regular file counts as none."""
        found = (self.root / path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{self.describe(path)} is no regular file")
        return StoredFile(path, found.st_size, mtime_ns=found.st_mtime_ns)

    def open(self, path: str) -> BinaryIO:
        """Return the file opened for reading; a pipe of that name is refused before it could block."""
        self.stat(path)
        return (self.root / path).open("rb")

    def reading(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> AbstractContextManager[BinaryIO]:
        """Open the expected version, which is looked at before and after: a disk reads on no condition."""
        return looked_at_twice(self, path, expected)

    def _walk(
        self, parts: tuple[str, ...], may_descend: MayDescend, shut: frozenset[_Identity]
    ) -> Iterator[StoredFile]:
        for _, name, size_bytes, mtime_ns, identity in sorted_externally(self._entries(parts)):
            path = (*parts, name)
            if identity is None:
                yield StoredFile("/".join(path), size_bytes, mtime_ns=mtime_ns)
            elif may_descend(path):
                if identity in shut:
                    logger.info("not listed, as it leads back or holds the output: %s", self.describe("/".join(path)))
                else:
                    yield from self._walk(path, may_descend, shut | {identity})

    def _entries(self, parts: tuple[str, ...]) -> Iterator[_Entry]:
        folder = self.root.joinpath(*parts)
        with storage_errors("list", self.describe("/".join(parts))):
            try:
                with os.scandir(folder) as entries:
                    yield from filter(None, map(_entry, entries))
            except FileNotFoundError:
                return  # it vanished while the listing ran


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
