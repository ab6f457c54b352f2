"""The storage protocol for a disk, a bucket or another object store, its records, and the checks of file versions.

`RunLocation` reads and writes runs through it; `SourceRoot` reads SOURCE. Implementations raise the errors of the disk
or the client, and those two classes convert them to the project's errors. Only `walk` raises the project's errors
itself, because it knows which folder failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from pseudoris.schemas.errors import ConfigError, ImageError

OTHER_ETAG: Final = "the etag differs from the plan"

# What exists at a path; None if nothing does.
Kind = Literal["file", "folder"] | None
# Takes the parts of a folder's path below the root. Returns whether the folder may hold wanted files.
MayDescend = Callable[[tuple[str, ...]], bool]


@dataclass(frozen=True, slots=True)
class Mark:
    """A file that may close the folder that holds it: a listing then leaves out the folder with all below it.

    Attributes:
        name: The file's name.
        closes: Takes the path of a folder below the root. Returns whether it holds the file, and is closed by it.
    """

    name: str
    closes: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or object below a root, with the values that identify its version.

    Attributes:
        path: Relative to the root, with `/`. On disk a name that is not UTF-8 has surrogate escapes.
        size_bytes: None for a broken link.
        etag: None on disk. If a store has no etags, the modification time replaces it.
        mtime_ns: None on object stores.
        is_archived: Whether a listing says that it is in an archive class; it may be restored all the same.
    """

    path: str
    size_bytes: int | None
    etag: str | None = None
    mtime_ns: int | None = None
    is_archived: bool = False


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of one folder.

    Attributes:
        name: Name in its folder.
        size_bytes: Its size.
        modified_s: Modification time in seconds since the epoch, by the storage's clock.
    """

    name: str
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """An incomplete multipart upload.

    Attributes:
        key: Key of the object that it would create.
        upload_id: The store's name for it.
        started_s: Seconds since the epoch.
    """

    key: str
    upload_id: str
    started_s: float


class ChangedError(Exception):
    """The file exists, but is not the requested version."""


class NoBucketError(ConfigError):
    """There is no bucket of this name, in this region, at this endpoint."""


class NotImplementedByStoreError(ConfigError):
    """The store answers 501: it does not implement what a request asks for."""


class ArchivedError(OSError):
    """The object is in an archive class, such as GLACIER, and was not restored: it cannot be read now."""


class Storage(Protocol):
    """Files below a root. Every path is relative to the root, with `/`. Can be pickled.

    A write is durable and atomic: a reader sees the old file or the new one, even if the writer is killed.

    Attributes:
        faults: Exceptions that it may raise if the storage fails.
        max_readers: Number of files that are worth reading in parallel.
    """

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """Exception types."""

    @property
    def max_readers(self) -> int:
        """At least 1."""

    def uri(self, path: str = "") -> str:
        """Return the full path or uri, as pyarrow, DuckDB and the like accept it."""

    def kind(self, path: str) -> Kind:
        """Return what exists at `path`."""

    def stat(self, path: str) -> StoredFile:
        """Return the file's current version. Raises: FileNotFoundError: There is no file, or a folder."""

    def read(self, path: str) -> bytes:
        """Return the whole file. Raises: FileNotFoundError: There is no file."""

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for reading, seekable.

        Args:
            path: Path of the file.
            window_bytes: Fetch at least this many bytes at once. Use it for many small reads that are close together.

        Raises:
            FileNotFoundError: There is no file. A bucket may raise this only at the first read or seek.
        """

    def open_version(
        self, path: str, expected: StoredFile, *, window_bytes: int = 0
    ) -> AbstractContextManager[BinaryIO]:
        """Open the expected version of a file for a block.

        Args:
            path: Path of the file.
            expected: The etag, time and size that it must have. Fields that are None are not checked.
            window_bytes: As for `open`.

        Raises:
            ImageError: `changed`, when the block ends or earlier. Do not use what was read.
            FileNotFoundError: There is no file.
        """

    def list(self, folder: str, *, name_prefix: str = "") -> Iterator[ListedFile]:
        """Yield the finished files directly in `folder` whose names begin with `name_prefix`, in any order.

        Nothing if the folder does not exist.
        """

    def obstacle(self, path: str) -> str | None:
        """Return what is at `path` if it is not a file, such as `a folder`; None for a file, or for nothing."""

    def list_obstacles(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and kind (`a folder`) of what is directly in `folder` and not a file."""

    def walk(
        self, may_descend: MayDescend, exclude: str | None = None, mark: Mark | None = None
    ) -> Iterator[StoredFile]:
        """Yield the files below the root in the order of their keys.

        Left out are `exclude` (a full path or uri), and the folders below the root that `mark` closes.

        Raises:
            ConfigError: Listing a folder is not permitted; the message names the folder.
            TransientError: The storage failed.
        """

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of files that killed writers left in `folder` on a disk."""

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield the incomplete multipart uploads of files whose whole path matches `paths`."""

    def abort_upload(self, upload: Upload) -> None:
        """Abort the upload and free its storage. If it is gone, do nothing."""

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`. Of several callers one gets True; the others change nothing."""

    def put(self, path: str, data: bytes) -> None:
        """Write `data` to the file, and replace any existing file."""

    def put_file(self, path: str, local: Path) -> None:
        """Write the file from a local file in bounded memory, and replace any existing file."""

    def temporary_path(self, path: str) -> Path | None:
        """Return a new local path from which `put_file` moves a file to `path`; None if `put_file` copies."""

    def delete(self, path: str) -> None:
        """Delete the file if it exists."""


def refuse_change(found: StoredFile, expected: StoredFile) -> None:
    """Refuse a file that is not the expected version. Fields of `expected` that are None are not checked.

    Raises:
        ImageError: `changed`.
    """
    if expected.etag is not None and found.etag != expected.etag:
        raise ImageError("changed", OTHER_ETAG)
    if expected.mtime_ns is not None and found.mtime_ns != expected.mtime_ns:
        raise ImageError("changed", "the modification time differs from the plan")
    if expected.size_bytes is not None and found.size_bytes != expected.size_bytes:
        raise ImageError("changed", "the size differs from the plan")


@contextmanager
def checked_twice(storage: Storage, path: str, expected: StoredFile) -> Iterator[BinaryIO]:
    """Open a file for a block. Check its version before and after, for storages without conditional reads."""
    refuse_change(storage.stat(path), expected)
    with storage.open(path) as stream:
        yield stream
    refuse_change(storage.stat(path), expected)
