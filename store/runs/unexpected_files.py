"""Files in a run's table folders that no receipt names. Readers that glob a folder would include them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import PART_NAME, part_name
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.lock import current_holder
from pseudoris.store.runs.manifest import is_manifest_complete

# Readers of a Parquet folder ignore these names. Desktops create such files (`.DS_Store`) in every folder they show.
_HIDDEN = "."


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


def stray_files(location: RunLocation, named: NamedParts, latest: Mapping[int, int]) -> Iterator[str]:
    """Yield a sentence for each file in a table folder that does not belong to the committed run.

    A part that no receipt names is skipped while the run is in progress: it may soon be committed, or deleted by gc.
    The run has ended when a manifest holds all latest receipts: the last manifest is written after gc.

    Args:
        location: The run's folder.
        named: The parts of all latest receipts.
        latest: The latest generation by shard, listed before the folders.

    Raises:
        TransientError: Storage failed.
    """
    has_ended = is_manifest_complete(location, latest)
    unnamed: list[str] = []
    for table in SCHEMAS:
        for name in _files(location, table):
            if named.has(table, name):
                continue
            if PART_NAME.fullmatch(name) is None:
                yield f"{table}/{name} is an unexpected file. Readers that glob its folder will include it. Move it out"
            elif has_ended:
                unnamed.append(f"{table}/{name}")
        for name, what in location.list_obstacles(table):
            # In the place of a part, it is a problem of its shard.
            if not name.startswith(_HIDDEN) and not named.has(table, name):
                yield f"{table}/{name} is {what}. Readers of its folder may include what is in it, or fail. Move it out"
    # Checked last: a driver that began to write meanwhile holds the lock by now.
    if unnamed and not _is_driven(location):
        for path in unnamed:
            yield f"{path} is in no receipt. Readers that glob its folder will include it. Run gc, or move it out"


def refuse_unexpected_files(location: RunLocation) -> None:
    """Accept a location for a new run if its table folders hold only files that an earlier run may have left there.

    The garbage collection at the end of the new run deletes parts without a receipt.

    Raises:
        ConfigError: A table folder holds another file: readers would include its rows.
        TransientError: Storage failed.
    """
    for table in SCHEMAS:
        name = next((name for name in _files(location, table) if PART_NAME.fullmatch(name) is None), None)
        if name is not None:
            raise ConfigError(
                f"{location.uri(f'{table}/{name}')} is in the folder where a new run writes its table {table}. Readers "
                "of the table would include it: move it out, or name another OUT"
            )


def _files(location: RunLocation, table: str) -> Iterator[str]:
    return (file.name for file in location.list(table) if not file.name.startswith(_HIDDEN))


def _is_driven(location: RunLocation) -> bool:
    holder = current_holder(location)
    return holder is not None and not holder.is_gone
