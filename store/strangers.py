"""Files in a run's table folders that no receipt names: a reader that globs a folder would take them for the run's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

import numpy as np

from schemas.errors import ConfigError
from schemas.ids import PART_NAME, part_name
from schemas.run import Receipt
from schemas.tables import SCHEMAS
from store.location import RunLocation
from store.lock import look_at_holder
from store.manifest import is_manifest_complete

# Readers of a folder of Parquet pass these over, and a desktop leaves its own (`.DS_Store`) wherever it looks.
_HIDDEN = "."


class NamedParts:
    """The parts that standing receipts name, 28 bytes a shard: a run of millions of shards is proven in one process."""

    def __init__(self, commits: Mapping[int, int]) -> None:
        """Take room for `commits`, the standing generation by shard, in the order of the shards."""
        self._shards = np.fromiter(commits.keys(), np.int64, len(commits))
        self._generations = np.fromiter(commits.values(), np.int32, len(commits))
        self._digests = np.zeros((len(commits), len(SCHEMAS)), np.uint32)

    def add(self, receipt: Receipt) -> None:
        """Take note of the parts of a standing receipt."""
        row = bisect_left(self._shards, receipt.shard)
        for column, table in enumerate(SCHEMAS):
            if match := PART_NAME.fullmatch(receipt.parts[table].name):
                self._digests[row, column] = int(match[3], 16)

    def has(self, table: str, name: str) -> bool:
        """Return whether a file of a table's folder is the part of a receipt that was added."""
        match = PART_NAME.fullmatch(name)
        if match is None:
            return False
        row = bisect_left(self._shards, int(match[1]))
        if row == len(self._shards):
            return False
        digest = f"{self._digests[row, list(SCHEMAS).index(table)]:08x}"
        return name == part_name(int(self._shards[row]), int(self._generations[row]), digest)


def stray_files(location: RunLocation, named: NamedParts, standing: Mapping[int, int]) -> Iterator[str]:
    """Yield what each file is that stands in a table folder of a committed run and counts for nothing.

    A part that no receipt names is none of them while the run goes on, or before it has ended: it may be in the
    making, and superseded ones wait for gc. A manifest that holds all that stands is written after gc.

    Args:
        location: Where the run lives.
        named: The parts of all standing receipts.
        standing: Generation by shard, listed before the folders.

    Raises:
        TransientError: Storage failed.
    """
    has_ended = is_manifest_complete(location, standing)
    unnamed: list[str] = []
    for table in SCHEMAS:
        for name in _files(location, table):
            if named.has(table, name):
                continue
            if PART_NAME.fullmatch(name) is None:
                yield f"{table}/{name} is no part of this run, and who reads the folder reads it too: move it away"
            elif has_ended:
                unnamed.append(f"{table}/{name}")
    # Asked last: whoever began to write meanwhile has the run by now.
    if unnamed and not _is_driven(location):
        for path in unnamed:
            yield f"{path} is named by no receipt, and who reads the folder reads it too: run gc, or move it away"


def refuse_strangers(location: RunLocation) -> None:
    """Accept a location for a new run where its table folders hold no file but what a run itself may have left there.

    Parts without a receipt are gc's: the new run's end collects them.

    Raises:
        ConfigError: One does: its rows would be read with the run's.
        TransientError: Storage failed.
    """
    for table in SCHEMAS:
        name = next((name for name in _files(location, table) if PART_NAME.fullmatch(name) is None), None)
        if name is not None:
            raise ConfigError(
                f"{location.uri(f'{table}/{name}')} stands where a new run writes its table {table}, and would be read "
                "with it: move it away, or name another OUT"
            )


def _files(location: RunLocation, table: str) -> Iterator[str]:
    return (file.name for file in location.list(table) if not file.name.startswith(_HIDDEN))


def _is_driven(location: RunLocation) -> bool:
    holder = look_at_holder(location)
    return holder is not None and not holder.is_gone
