"""Makes the keys of images, and sorts the listings of `local_storage` and `s3_listing` by key.

Called by `store`, `interchange`, `training` and this folder's storages. A key is a percent-encoded path relative to
SOURCE. An image's id is made of its key, so the spelling of keys must never change. A listing may be larger than
memory.
"""

from __future__ import annotations

import heapq
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote_to_bytes

from pseudoris.files.storage import storage_errors

# In a key, `!` and `#` are always separators, because `quote` encodes these characters in names.
_MEMBER: Final = "!"
_ROW: Final = "#"

# At most this many records are sorted in memory: each takes about 400 bytes. A longer listing is sorted on disk.
MAX_IN_MEMORY: Final = 100_000
# At most this many sorted files are merged at once, because each takes an open file and a block of records.
_MAX_RUNS: Final = 64
_BLOCK: Final = 1_000

Record = TypeVar("Record", bound=tuple[Any, ...])


def path_key(path: str) -> str:
    """Return the key of a path: its bytes percent-encoded except `/`. This works for names that are not UTF-8 too."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def key_prefix(name: str) -> str:
    """Return what stands before the keys of a combined run's images of this name; nothing before those without one."""
    return f"{path_key(name)}/" if name else ""


def member_key(tar_path: str, member: str) -> str:
    """Return the key of a tar's member, `tar!member`; the member's name never becomes a path."""
    return f"{path_key(tar_path)}{_MEMBER}{path_key(member)}"


def row_key(table_path: str, row: int) -> str:
    """Return the key of a Parquet file's row, `file#row`, rows counted from 0 over the whole file."""
    return f"{path_key(table_path)}{_ROW}{row}"


def file_of(key: str) -> str:
    """Return the key of the file that holds the image: the file itself, its tar, or its table."""
    return key.partition(_MEMBER)[0].partition(_ROW)[0]


def file_path(key: str) -> str:
    """Return the path of the file that holds the image."""
    return unquote_to_bytes(file_of(key)).decode("utf-8", "surrogateescape")


def sorted_externally(records: Iterable[Record], *, max_in_memory: int | None = None) -> Iterator[Record]:
    """Yield picklable records ordered by their first field. Records with equal first fields keep their order.

    Fewer than `max_in_memory` (by default `MAX_IN_MEMORY`) are sorted in memory. Otherwise sorted runs are written to
    the folder of `tempfile`, about 100 bytes per record, and merged: at most `_MAX_RUNS` runs, with `_BLOCK` records of
    each in memory. Records that are in order already make one run.
    """
    max_in_memory = max_in_memory or MAX_IN_MEMORY
    remaining = iter(records)
    first = sorted(islice(remaining, max_in_memory), key=itemgetter(0))
    if len(first) < max_in_memory:
        yield from first
        return
    with tempfile.TemporaryDirectory(prefix="pseudoris-listing-") as folder:
        spilled = _Spilled(Path(folder))
        while first:
            spilled.add(first)
            first = sorted(islice(remaining, max_in_memory), key=itemgetter(0))
        yield from spilled.merged()


class _Spilled:
    """Sorted runs on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = count()
        self._runs: list[Path] = []
        self._last: Any = None

    def add(self, records: list[Any]) -> None:
        """Write sorted records: to the last run if they continue it, else to a new run."""
        if not self._runs or records[0][0] < self._last:
            if len(self._runs) == _MAX_RUNS:
                target, merged = self._folder / f"run-{next(self._names)}", self.merged()
                while block := list(islice(merged, _BLOCK)):
                    _append(target, block)
                for run in self._runs:
                    run.unlink()
                self._runs = [target]
            self._runs.append(self._folder / f"run-{next(self._names)}")
        _append(self._runs[-1], records)
        self._last = records[-1][0]

    def merged(self) -> Iterator[Any]:
        """Yield all records in order. All runs are open meanwhile."""
        with ExitStack() as files:
            streams = [_blocks(files.enter_context(run.open("rb"))) for run in self._runs]
            yield from heapq.merge(*streams, key=itemgetter(0))


def _append(run: Path, records: list[Any]) -> None:
    # If the disk fails while a bucket is listed, the error must name the disk, not the bucket.
    with (
        storage_errors("sort the listing on disk (set TMPDIR to use another)", str(run.parent)),
        run.open("ab") as file,
    ):
        for start in range(0, len(records), _BLOCK):
            pickle.dump(records[start : start + _BLOCK], file, protocol=pickle.HIGHEST_PROTOCOL)


def _blocks(file: Any) -> Iterator[Any]:
    while True:
        try:
            # Unpickling is safe here, because this process wrote the file, in a folder that no other user can write.
            block = pickle.load(file)
        except EOFError:
            return
        yield from block
