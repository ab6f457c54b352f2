"""One protocol for files on a disk, in a bucket or in another object store; its records, and what a version is.

`RunLocation` writes and reads runs through it, `SourceRoot` reads SOURCE. Implementations raise what the disk or
the client raises; those two turn it into the project's errors. `walk` alone raises these itself: it knows the folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from pseudoris.schemas.errors import ImageError

OTHER_ETAG: Final = "the etag differs from the plan"

# What stands at a path, None where nothing does.
Kind = Literal["file", "folder"] | None
# Parts of a folder's path below the root; whether anything below it may be wanted.
MayDescend = Callable[[tuple[str, ...]], bool]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or object below a root: what tells its version.

    Attributes:
        path: Relative to the root, with `/`; on disk a name that is not UTF-8 holds surrogate escapes.
        size_bytes: None for a link that leads nowhere.
        etag: None on disk. Where a store has none, its time of modification stands in.
        mtime_ns: None on object stores.
    """

    path: str
    size_bytes: int | None
    etag: str | None = None
    mtime_ns: int | None = None


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


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not completed.

    Attributes:
        key: Of the object that it was to become.
        upload_id: The store's name for it.
        started_s: Seconds since the epoch.
    """

    key: str
    upload_id: str
    started_s: float


class ChangedError(Exception):
    """The file is there, and is not the version that was asked for."""


class Storage(Protocol):
    """Files below a root; every path is relative to it, with `/`. Pickles.

    A write is durable and whole: a reader sees the old file or the new one, and a killed writer leaves no torn one.

    Attributes:
        faults: What it may raise that is no fault of a file.
        max_readers: Files that are worth reading at once.
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
        """Return what stands at `path`."""

    def stat(self, path: str) -> StoredFile:
        """Return the file as it stands now. Raises: FileNotFoundError: there is none, or a folder."""

    def read(self, path: str) -> bytes:
        """Return the whole file. Raises: FileNotFoundError: there is none."""

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for reading, seekable.

        Args:
            path: Of the file.
            window_bytes: Fetched at once where less is read: for many small reads that lie close together.

        Raises:
            FileNotFoundError: There is none; a bucket may say so at the first read or seek.
        """

    def open_version(
        self, path: str, expected: StoredFile, *, window_bytes: int = 0
    ) -> AbstractContextManager[BinaryIO]:
        """Open the expected version of a file for a block.

        Args:
            path: Of the file.
            expected: Etag, time and size that it must have; what is None is not asked.
            window_bytes: As of `open`.

        Raises:
            ImageError: `changed`, by the end of the block: what was read must not be used.
            FileNotFoundError: There is none.
        """

    def list(self, folder: str) -> Iterator[ListedFile]:
        """Yield the finished files directly in `folder`, in no order; nothing where it does not exist."""

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the files below the root in the order of their keys, without `exclude` (a full path or uri).

        Raises:
            ConfigError: A folder may not be listed; the text names it.
            TransientError: The storage failed.
        """

    def list_temporary(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield name and modification time (epoch seconds) of what killed writers left in `folder` of a disk."""

    def list_uploads(self, paths: re.Pattern[str]) -> Iterator[Upload]:
        """Yield the multipart uploads of the files that `paths` matches as a whole, begun and not completed."""

    def abort_upload(self, upload: Upload) -> None:
        """Give the upload up, which frees what it holds; nothing happens where it is gone."""

    def create_once(self, path: str, data: bytes) -> bool:
        """Create the file with `data`; of several callers one gets True, and the others leave it untouched."""

    def put(self, path: str, data: bytes) -> None:
        """Write the file with `data` in place of whatever stands there."""

    def put_file(self, path: str, local: Path) -> None:
        """Write the file from one of this disk, in bounded memory, in place of whatever stands there."""

    def temporary_path(self, path: str) -> Path | None:
        """Return a new path from where `put_file` moves a file to `path` at once; None where it would copy."""

    def delete(self, path: str) -> None:
        """Delete the file; nothing happens where there is none."""


def refuse_change(found: StoredFile, expected: StoredFile) -> None:
    """Accept a file that is the expected version, as far as `expected` says one.

    Raises:
        ImageError: `changed` where it is not.
    """
    if expected.etag is not None and found.etag != expected.etag:
        raise ImageError("changed", OTHER_ETAG)
    if expected.mtime_ns is not None and found.mtime_ns != expected.mtime_ns:
        raise ImageError("changed", "the modification time differs from the plan")
    if expected.size_bytes is not None and found.size_bytes != expected.size_bytes:
        raise ImageError("changed", "the size differs from the plan")


@contextmanager
def checked_twice(storage: Storage, path: str, expected: StoredFile) -> Iterator[BinaryIO]:
    """Open a file for the block, and check its version before and after: for storages that read on no condition."""
    refuse_change(storage.stat(path), expected)
    with storage.open(path) as stream:
        yield stream
    refuse_change(storage.stat(path), expected)
