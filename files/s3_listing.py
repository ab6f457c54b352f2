"""Lists a bucket in the order of the project's keys, with many pages in parallel. Called by `s3_storage`.

S3's own order differs, because our keys are percent-encoded. Memory must not grow with the number of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from pseudoris.files.key_order import path_key, sorted_externally
from pseudoris.files.s3_client import etag_of
from pseudoris.files.s3_requests import Page, S3Requests
from pseudoris.files.storage import Mark, MayDescend, StoredFile

MAX_LISTERS: Final = 16
# At most this many levels of folders are searched for places where parallel listings can start.
_SPLIT_LEVELS: Final = 3
# Parallel listings start at most at this many folders, because a bucket may have one folder per image.
MAX_MARKS: Final = 256
# S3 returns at most this many keys in one page of a listing.
PAGE_KEYS: Final = 1_000
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
# This character sorts after all names, so a listing that starts after `folder/` and it skips the folder.
_LAST: Final = "\U0010ffff"

# A record has the key, path, size and etag of an object, and whether it is archived.
_Record = tuple[str, str, int, str, bool]


def walk_bucket(
    bucket: S3Requests, prefix: str, may_descend: MayDescend, exclude: str | None, mark: Mark | None = None
) -> Iterator[StoredFile]:
    """Yield the objects below a prefix in the order of their keys, after all are listed.

    `prefix` has no slash at its end, and is empty for the whole bucket; `exclude` is the uri of a folder that is not
    listed; `may_descend` and `mark` are as for `Storage.walk`. `mark` is asked after the listing, once for each folder
    that holds one of its files.
    """
    marked: list[str] = []
    records = _records(bucket, prefix, may_descend, exclude)
    if mark is not None:
        records = _noting(records, mark.names, marked)
    closed: tuple[str, ...] | None = None
    for _, path, size_bytes, etag, is_archived in sorted_externally(records):
        if closed is None:
            # All marked folders are known now, because the sort yields its first record after everything is listed.
            closed = tuple(f"{folder}/" for folder in marked if mark is not None and mark.closes(folder))
        if not path.startswith(closed):
            yield StoredFile(path, size_bytes, etag=etag, is_archived=is_archived)


def _noting(records: Iterator[_Record], names: tuple[str, ...], folders: list[str]) -> Iterator[_Record]:
    """Yield the records; append the folders below the root that hold a file of one of the `names`."""
    for record in records:
        folder, _, name = record[1].rpartition("/")
        if folder and name in names:
            folders.append(folder)
        yield record


def _records(bucket: S3Requests, prefix: str, may_descend: MayDescend, exclude: str | None) -> Iterator[_Record]:
    """Yield the records of wanted objects in any order: first level by level, then ranges of keys in parallel."""
    base = f"{prefix}/" if prefix else ""
    is_open = _cached_gate(bucket.address(base), may_descend, exclude)
    folders, level, is_whole = [""], 0, True
    # The loop ends if some folders of a level were dropped, because the next level would be incomplete.
    while folders and is_whole and level < _SPLIT_LEVELS and len(folders) < MAX_LISTERS:
        inner = _Marks()
        for page in _in_parallel(iter([bucket.pages(base + each, delimiter="/") for each in folders])):
            inner.add(each[len(base) :] for each in page[1] if is_open(each[len(base) :]))
            yield from _wanted(page[0], base, is_open)
        folders, level, is_whole = inner.sorted(), level + 1, inner.is_whole
    stops = [*folders[1:], None][: len(folders)]
    ranges = (_between(bucket, base, start, stop, is_open) for start, stop in zip(folders, stops, strict=True))
    for page in _in_parallel(ranges):
        # Objects above this level are left out, because the loop above has yielded them.
        deep = [each for each in page[0] if each["Key"].count("/", len(base)) >= level]
        yield from _wanted(deep, base, is_open)


def _between(
    bucket: S3Requests, base: str, start: str, stop: str | None, is_open: Callable[[str], bool]
) -> Iterator[Page]:
    """Yield the pages of keys from folder `start` up to folder `stop`, and skip folders that may not be listed."""
    after = base + start
    while True:
        for listed, _ in bucket.pages(base, start_after=after):
            objects = [each for each in listed if stop is None or each["Key"] < base + stop]
            yield objects, []
            if len(objects) < len(listed):
                return
            shut = _outermost_shut(objects[-1]["Key"][len(base) :], is_open) if len(objects) == PAGE_KEYS else None
            if shut is not None:
                after = f"{base}{shut}{_LAST}"
                break
        else:
            return


class _Marks:
    """Folders at which listings start: the first of all added folders, and evenly spaced ones of the others."""

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
        """Add folders. If there are too many, drop every second one."""
        for folder in folders:
            self._first = folder if self._first is None else min(folder, self._first)
            if self._num % self._stride == 0:
                self._kept.append(folder)
            self._num += 1
            if len(self._kept) == MAX_MARKS:
                self._kept = self._kept[::2]
                self._stride *= 2

    def sorted(self) -> list[str]:
        """Return the kept folders in S3's order."""
        return [] if self._first is None else sorted({self._first, *self._kept})


def _in_parallel(listings: Iterator[Iterator[Page]]) -> Iterator[Page]:
    """Yield the pages of all listings as they arrive. When one arrives, the next page of its listing is requested."""
    with ThreadPoolExecutor(MAX_LISTERS) as pool:
        asked: dict[Future[Page | None], Iterator[Page]] = {}

        def ask(pages: Iterator[Page]) -> None:
            asked[pool.submit(next, pages, None)] = pages

        for pages in islice(listings, MAX_LISTERS):
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


def _wanted(objects: Iterable[dict[str, Any]], base: str, is_open: Callable[[str], bool]) -> Iterator[_Record]:
    for each in objects:
        path = each["Key"][len(base) :]
        folder, _, name = path.rpartition("/")
        # Web consoles create an empty object that represents the folder itself. It is left out, because it is no file.
        if name and is_open(f"{folder}/" if folder else ""):
            yield path_key(path), path, each["Size"], etag_of(each), each.get("StorageClass") in _ARCHIVES


def _cached_gate(base_uri: str, may_descend: MayDescend, exclude: str | None) -> Callable[[str], bool]:
    """Return a function that says whether a folder (`a/b/`) and all folders above it may be listed."""
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
