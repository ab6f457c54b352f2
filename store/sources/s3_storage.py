"""Objects of an S3 store: listed by pages in parallel, read on the condition of their etag, one request an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, Final, Literal, Self, cast

from schemas.errors import ImageError
from schemas.placement import StorageConfig
from store.s3_answers import Page, StoredObject
from store.s3_client import S3Bucket
from store.s3_errors import ChangedError
from store.s3_reader import S3Reader
from store.sources.faults import denial_is_final, transient_faults
from store.sources.items import MayDescend, StoredFile
from store.sources.keys import path_key
from store.sources.sorting import sorted_externally
from store.sources.versions import OTHER_ETAG, refuse_change

# Pages of this many prefixes are asked for at once.
_LISTERS: Final = 16
# Levels of folders that are looked through for enough places to begin listings at.
_SPLIT_LEVELS: Final = 3
# A level may have a folder for each image: listings then begin at some of them, and run on.
_MAX_MARKS: Final = 256
# One page of a listing holds so many keys at most.
_PAGE: Final = 1_000
# No name of a folder's content sorts behind it.
_LAST: Final = "\U0010ffff"

# Key, path, size, etag.
_Record = tuple[str, str, int, str]


@dataclass(frozen=True, slots=True)
class S3Storage:
    """A prefix of a bucket, as `Storage` describes it. Pickles.

    Attributes:
        bucket: The bucket.
        prefix: Without a slash at its end; empty for the bucket as a whole.
        faults: What reading may raise that is no fault of an object.
        max_readers: Objects that are worth reading at once.
    """

    bucket: S3Bucket
    prefix: str
    faults: tuple[type[Exception], ...] = (Exception,)
    max_readers: int = 16

    @classmethod
    def at(cls, uri: str, endpoint_url: str | None, limits: StorageConfig) -> Self:
        """Return the storage at `s3://bucket/prefix`; nothing is asked of it yet."""
        name, _, prefix = uri.partition("://")[2].partition("/")
        return cls(S3Bucket(name, endpoint_url, limits), prefix.strip("/"))

    def describe(self, path: str = "") -> str:
        """Return the full uri."""
        return self.bucket.uri(self._at(path)).rstrip("/")

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        """Return what stands at `path`; a folder is a prefix below which something stands, or the bucket itself."""
        key, uri = self._at(path), self.describe(path)
        with transient_faults("look at", uri, faults=self.faults), denial_is_final(uri):
            if self.bucket.has_any(f"{key}/" if key else "") or not key:
                return "folder"
            return None if self.bucket.look(key) is None else "file"

    def walk(self, may_descend: MayDescend, exclude: str | None = None) -> Iterator[StoredFile]:
        """Yield the objects in the order of their keys, once all are listed; memory does not grow with their number.

        S3's own order is another one: keys are percent-encoded.
        """
        uri = self.describe()
        with transient_faults("list", uri, faults=self.faults), denial_is_final(uri):
            for _, path, size_bytes, etag in sorted_externally(self._records(may_descend, exclude)):
                yield StoredFile(path, size_bytes, etag=etag)

    def stat(self, path: str) -> StoredFile:
        """Return the object as it stands now."""
        with transient_faults("look at", self.describe(path), faults=self.faults):
            found = self.bucket.look(self._at(path))
            if found is None:
                raise FileNotFoundError(path)
        return StoredFile(path, found.size_bytes, etag=found.etag)

    def open(self, path: str) -> BinaryIO:
        """Return the object for ranged reads of one version; nothing is asked before the first."""
        return cast("BinaryIO", S3Reader(self.bucket, self._at(path)))

    @contextmanager
    def reading(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version: each request carries its etag, and no other is made."""
        if expected.size_bytes == 0:
            # No byte would be asked for, and so no condition.
            refuse_change(self.stat(path), expected)
        reader = S3Reader(
            self.bucket, self._at(path), etag=expected.etag, size=expected.size_bytes, window_bytes=window_bytes
        )
        try:
            yield cast("BinaryIO", reader)
        except ChangedError:
            raise ImageError("changed", OTHER_ETAG) from None

    def _at(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, path)))

    def _records(self, may_descend: MayDescend, exclude: str | None) -> Iterator[_Record]:
        """Yield what is wanted of each object, in any order: level by level at first, then whole ranges at once."""
        base = f"{self.prefix}/" if self.prefix else ""
        is_open = _cached_gate(self.bucket.uri(base), may_descend, exclude)
        folders, level, is_whole = [""], 0, True
        # Below some folders of a level alone, there would be no next level, only a part of it.
        while folders and is_whole and level < _SPLIT_LEVELS and len(folders) < _LISTERS:
            inner = _Marks()
            for page in _in_parallel(iter([self.bucket.pages(base + each, delimiter="/") for each in folders])):
                inner.add(each[len(base) :] for each in page.prefixes if is_open(each[len(base) :]))
                yield from _wanted(page.objects, base, is_open)
            folders, level, is_whole = inner.sorted(), level + 1, inner.is_whole
        stops = [*folders[1:], None][: len(folders)]
        ranges = (self._between(base, start, stop, is_open) for start, stop in zip(folders, stops, strict=True))
        for page in _in_parallel(ranges):
            # What lies less deep was listed with its level.
            deep = [each for each in page.objects if each.key.count("/", len(base)) >= level]
            yield from _wanted(deep, base, is_open)

    def _between(self, base: str, start: str, stop: str | None, is_open: Callable[[str], bool]) -> Iterator[Page]:
        """Yield the pages of the keys from a folder up to another one, jumping over folders that are shut."""
        after = base + start
        while True:
            for page in self.bucket.pages(base, start_after=after):
                objects = [each for each in page.objects if stop is None or each.key < base + stop]
                yield Page(tuple(objects), ())
                if len(objects) < len(page.objects):
                    return
                shut = _outermost_shut(objects[-1].key[len(base) :], is_open) if len(objects) == _PAGE else None
                if shut is not None:
                    after = f"{base}{shut}{_LAST}"
                    break
            else:
                return


class _Marks:
    """Folders to begin a listing at: the first of all that were added, and enough of the others, evenly."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._first: str | None = None
        self._stride = 1
        self._num = 0

    @property
    def is_whole(self) -> bool:
        """Whether every folder that was added is kept."""
        return self._stride == 1

    def add(self, folders: Iterable[str]) -> None:
        """Take folders, and drop every second one where there are too many."""
        for folder in folders:
            self._first = folder if self._first is None else min(folder, self._first)
            if self._num % self._stride == 0:
                self._kept.append(folder)
            self._num += 1
            if len(self._kept) == _MAX_MARKS:
                self._kept = self._kept[::2]
                self._stride *= 2

    def sorted(self) -> list[str]:
        """Return those kept, in the order of S3's keys."""
        return [] if self._first is None else sorted({self._first, *self._kept})


def _in_parallel(listings: Iterator[Iterator[Page]]) -> Iterator[Page]:
    """Yield the pages of all listings as they come; the next page of each is asked for when one was taken."""
    with ThreadPoolExecutor(_LISTERS) as pool:
        asked: dict[Future[Page | None], Iterator[Page]] = {}

        def ask(pages: Iterator[Page]) -> None:
            asked[pool.submit(next, pages, None)] = pages

        for pages in islice(listings, _LISTERS):
            ask(pages)
        while asked:
            done, _ = wait(asked, return_when=FIRST_COMPLETED)
            for future in done:
                pages = asked.pop(future)
                page = future.result()
                following = pages if page is not None else next(listings, None)
                if following is not None:
                    ask(following)
                if page is not None:
                    yield page


def _wanted(objects: Iterable[StoredObject], base: str, is_open: Callable[[str], bool]) -> Iterator[_Record]:
    for each in objects:
        path = each.key[len(base) :]
        folder, _, name = path.rpartition("/")
        # Consoles create an empty object for a folder itself.
        if name and is_open(f"{folder}/" if folder else ""):
            yield path_key(path), path, each.size_bytes, each.etag


def _cached_gate(base_uri: str, may_descend: MayDescend, exclude: str | None) -> Callable[[str], bool]:
    """Return a function that tells of a folder (`a/b/`) whether it and all above it may be listed."""
    shut = None if exclude is None else f"{exclude.rstrip('/')}/"

    @lru_cache(maxsize=10_000)
    def is_open(folder: str) -> bool:
        if not folder:
            return True
        above = folder[:-1].rpartition("/")[0]
        if not is_open(f"{above}/" if above else ""):
            return False
        return base_uri + folder != shut and may_descend(tuple(folder[:-1].split("/")))

    return is_open


def _outermost_shut(path: str, is_open: Callable[[str], bool]) -> str | None:
    parts = path.split("/")[:-1]
    folders = ("/".join(parts[: depth + 1]) + "/" for depth in range(len(parts)))
    return next((folder for folder in folders if not is_open(folder)), None)
