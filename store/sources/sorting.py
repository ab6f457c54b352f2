"""Sorting more than memory holds: runs spilled to a temporary folder, and merged."""

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

from store.storage_errors import storage_errors

# A record of a listing takes about 400 bytes: 40 MB here, whatever the listing's length.
MAX_IN_MEMORY: Final = 100_000
# Runs that are merged at once: each holds an open file and a block of records.
_MAX_RUNS: Final = 64
_BLOCK: Final = 1_000

Record = TypeVar("Record", bound=tuple[Any, ...])


def sorted_externally(records: Iterable[Record], *, max_in_memory: int | None = None) -> Iterator[Record]:
    """Yield the records ordered by their first field; those that are equal in it keep their order.

    At most `max_in_memory` of them are held, and while runs are merged `_BLOCK` a run, 64 runs at most; the
    rest lies in the folder of `tempfile`, 100 bytes or so each. What fits into memory touches no disk, and
    what comes in order already makes one run.

    Args:
        records: Tuples; the first field decides. They must pickle.
        max_in_memory: Records a run; `MAX_IN_MEMORY` by default.
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
        """Write sorted records: after the last run where they go on from it, as a run of their own else."""
        if not self._runs or records[0][0] < self._last:
            if len(self._runs) == _MAX_RUNS:
                self._merge_all()
            self._runs.append(self._folder / f"run-{next(self._names)}")
        _append(self._runs[-1], records)
        self._last = records[-1][0]

    def merged(self) -> Iterator[Any]:
        """Yield all records in order; each run is open meanwhile."""
        with ExitStack() as files:
            streams = [_blocks(files.enter_context(run.open("rb"))) for run in self._runs]
            yield from heapq.merge(*streams, key=itemgetter(0))

    def _merge_all(self) -> None:
        target = self._folder / f"run-{next(self._names)}"
        records = self.merged()
        while block := list(islice(records, _BLOCK)):
            _append(target, block)
        for run in self._runs:
            run.unlink()
        self._runs = [target]


def _append(run: Path, records: list[Any]) -> None:
    # Where it fails while a bucket is listed, the bucket is not to blame.
    with storage_errors("sort the listing on disk (TMPDIR names another)", str(run.parent)), run.open("ab") as file:
        for start in range(0, len(records), _BLOCK):
            pickle.dump(records[start : start + _BLOCK], file, protocol=pickle.HIGHEST_PROTOCOL)


def _blocks(file: Any) -> Iterator[Any]:
    while True:
        try:
            # Our own file, in a folder that no other user can write.
            block = pickle.load(file)
        except EOFError:
            return
        yield from block
