"""Files in a run's table folders that no receipt names. Readers that glob a folder would include them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import PART_NAME, part_name
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.files.storage_errors import printable
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.lock import current_holder
from pseudoris.store.runs.manifest import is_manifest_complete


class NamedParts:
    """The parts that the latest receipts name, in 28 bytes per shard: one process can verify millions of shards."""

    def __init__(self, commits: Mapping[int, int]) -> None:
        """Reserve memory for `commits`, the latest generation by shard, in the order of the shards."""
        self._shards = np.fromiter(commits.keys(), np.int64, len(commits))
        self._generations = np.fromiter(commits.values(), np.int32, len(commits))
        self._digests = np.zeros((len(commits), len(SCHEMAS)), np.uint32)

    def add(self, receipt: Receipt) -> None:
        """Record the parts of a latest receipt."""
        row = bisect_left(self._shards, receipt.shard)
        for column, table in enumerate(SCHEMAS):
            if match := PART_NAME.fullmatch(receipt.parts[table].name):
                self._digests[row, column] = int(match[3], 16)

    def has(self, table: str, name: str) -> bool:
        """Return whether a file in a table's folder is a part of an added receipt."""
        match = PART_NAME.fullmatch(name)
        if match is None:
            return False
        row = bisect_left(self._shards, int(match[1]))
        if row == len(self._shards):
            return False
        digest = f"{self._digests[row, list(SCHEMAS).index(table)]:08x}"
        return name == part_name(int(self._shards[row]), int(self._generations[row]), digest)


def stray_files(
    location: RunLocation, named: NamedParts, latest: Mapping[int, int], *, is_whole: bool
) -> Iterator[str]:
    """Yield a sentence for each file in a table folder that does not belong to the committed run.

    A name that begins with a dot is no exception: DuckDB and polars read `.x.parquet` and fail on `._x.parquet`.

    A part that no receipt names is skipped while the run is in progress: it may soon be committed, or deleted by gc.
    The run has ended when a manifest holds all latest receipts: the last manifest is written after gc.

    Args:
        location: The run's folder.
        named: The parts of all latest receipts.
        latest: The latest generation by shard, listed before the folders.
        is_whole: Whether `named` has the parts of every planned shard.

    Raises:
        TransientError: Storage failed.
    """
    has_ended = is_whole and is_manifest_complete(location, latest)
    unnamed: list[str] = []
    for table in SCHEMAS:
        for name, what in _entries(location, table):
            # A folder in the place of a part is a problem of its shard.
            if named.has(table, name):
                continue
            if what is not None or PART_NAME.fullmatch(name) is None:
                yield _unexpected(printable(f"{table}/{name}"), what)
            elif has_ended:
                unnamed.append(f"{table}/{name}")
    # Checked last: a driver that began to write meanwhile holds the lock by now.
    if unnamed and not is_driven(location):
        for path in unnamed:
            yield f"{path} is in no receipt. Readers that glob its folder will include it. Run gc, or move it out"


def refuse_unexpected_files(location: RunLocation) -> None:
    """Accept a location for a new run if its table folders hold only files that an earlier run may have left there.

    The garbage collection at the end of the new run deletes parts without a receipt.

    Raises:
        ConfigError: A table folder holds something else: readers would include it, or fail.
        TransientError: Storage failed.
    """
    for table in SCHEMAS:
        for name, what in _entries(location, table):
            if what is not None or PART_NAME.fullmatch(name) is None:
                found = _unexpected(printable(location.uri(f"{table}/{name}")), what)
                raise ConfigError(f"{found}, or name another OUT: a new run writes its table {table} there")


def is_driven(location: RunLocation) -> bool:
    """Return whether a driver may be working on the run: its lock is held, and the holder is not known to be gone."""
    holder = current_holder(location)
    return holder is not None and not holder.is_gone


def _entries(location: RunLocation, table: str) -> Iterator[tuple[str, str | None]]:
    """Yield the name of each file in a table's folder with None, and of what is not a file with its kind."""
    yield from ((file.name, None) for file in location.list(table))
    yield from location.list_obstacles(table)


def _unexpected(path: str, what: str | None) -> str:
    if what is None:
        return f"{path} is an unexpected file. Readers that glob its folder will include it. Move it out"
    return f"{path} is {what}. Readers of its folder may include what is in it, or fail. Move it out"
