"""What a listing yields, and what a listing needs of the storage below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

# Parts of a folder's path below the root; whether anything below it may be wanted.
MayDescend = Callable[[tuple[str, ...]], bool]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One listed input image.

    Attributes:
        key: Percent-encoded, relative to SOURCE's root: `a/b.jpg`, `tar!member`, `file#row`.
        size_bytes: Of the encoded image; None for Parquet rows and for links that lead nowhere.
        etag: Of the object that holds it; None on disk.
        mtime_ns: Of the file that holds it; None on object stores.
        offset_bytes: Where a member's data starts in its tar; else None.
        row_group: Of its Parquet file; else None.
        row: In its Parquet file, from 0; else None.
        boundary: Shards hold items of one boundary alone: a tar's key, or a Parquet file's key and row group;
            None for plain files.
        mean_bytes: Of a row of its row group, by the footer; None for uris and elsewhere.
    """

    key: str
    size_bytes: int | None = None
    etag: str | None = None
    mtime_ns: int | None = None
    offset_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None
    boundary: str | None = None
    mean_bytes: int | None = None

    @property
    def expected_bytes(self) -> int:
        """What the image is expected to take, encoded; 0 where nothing is known."""
        return self.size_bytes or self.mean_bytes or 0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file or object below a root.

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


class Storage(Protocol):
    """A root on a disk or in a store; every path is relative to it. Nothing is ever written.

    Attributes:
        faults: What reading from it may raise that is no fault of a file.
        max_readers: Files that are worth reading at once.
    """

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """Exception types."""

    @property
    def max_readers(self) -> int:
        """At least 1."""

    def describe(self, path: str = "") -> str:
        """Return the full path or uri, for messages."""

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what stands at `path`, None where nothing does."""

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the files below the root in the order of their keys, without `exclude` (a full path or uri)."""

    def stat(self, path: str) -> StoredFile:
        """Return the file as it stands now. Raises: FileNotFoundError: it does not."""

    def open(self, path: str) -> BinaryIO:
        """Return the file opened for reading, seekable. Raises: FileNotFoundError: there is none."""

    def reading(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> AbstractContextManager[BinaryIO]:
        """Open the expected version of a file for a block.

        Args:
            path: Of the file.
            expected: Etag, time and size that it must have; what is None is not asked.
            window_bytes: Fetched at once where less is read: for many small reads that lie close together.

        Raises:
            ImageError: `changed`, by the end of the block: what was read must not be used.
            FileNotFoundError: There is none.
        """
