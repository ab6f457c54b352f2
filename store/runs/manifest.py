"""Numbered snapshots of the receipts, `_manifest/0001.parquet`: one read instead of one per shard.

Sessions write them, datasets read them. Other readers get receipts from `LatestReceipts`, through `open_run`; figures
come from `cached_receipts`. A snapshot is a cache, so receipts rule: an unusable one is passed over with a warning, and
nothing is deleted or proven by it. Those that a child run or a saved training pins must be kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import damaged, is_intact, open_parquet, sealed_parquet_bytes
from pseudoris.primitives.errors import ConfigError, TransientError, refuse_other_version
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.run_records import COUNTED_BY_NAME, MANIFEST_FOLDER, PartRecord, Receipt, RunHeader, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.receipts import latest_receipts, list_receipts, of_this_run, read_receipts

logger = logging.getLogger(__name__)

SNAPSHOT_NAME: Final = re.compile(r"^([0-9]{4}|[1-9][0-9]{4,})\.parquet$")
_COUNTS: Final = tuple(name for name in ShardCounts.model_fields if name != "reasons")
_DIGESTS: Final = ("header_sha256", "sha256")
# Manifests of versions before 0.5 lack these columns, and before 0.7 all but the first.
_LATER: Final = ("long_texts", "decisions", "wide_decisions")
_COPIED: Final = {
    "version",
    "shard",
    "generation",
    "seconds",
    "attempts",
    "nodes",
    "mixed",
    *_LATER,
    *COUNTED_BY_NAME,
    *_DIGESTS,
    "source",
}
_PART_TYPES: Final = {"name": pa.string(), "rows": pa.int64(), "size_bytes": pa.int64(), "sha256": pa.string()}
# This many receipts are converted at a time, because each takes 15 KB as Python objects, but 1 KB in Arrow.
ROWS_AT_ONCE: Final = 200
_ROWS_A_GROUP: Final = 1_000
_BLOCK_BYTES: Final = 8 * 2**20
_UNUSABLE: Final = (ConfigError, TransientError, FileNotFoundError, OSError, ValueError)
_CHANGED: Final = (
    "was changed after it was written: delete it, unless a child run or a saved training pins it (then restore it from "
    "a copy): the receipts hold all that it holds"
)
_PASSED_OVER: Final = "Cannot use the manifest. Reading the receipts instead: %s"
_VERSION_KEY: Final = b"pseudoris.manifest_version"
_VERSION: Final = 4

MANIFEST_SCHEMA: Final = pa.schema(
    [
        pa.field("version", pa.int32(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        pa.field("reasons", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("seconds", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("attempts", pa.map_(pa.string(), pa.int32()), nullable=False),
        pa.field("nodes", pa.list_(pa.string()), nullable=False),
        # `degraded` is stored as JSON, because settings have values of many types.
        pa.field("degraded", pa.string(), nullable=False),
        pa.field("mixed", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.string()) for name in _DIGESTS),
        *(
            pa.field(f"{table}_part_{name}", kind, nullable=False)
            for table in SCHEMAS
            for name, kind in _PART_TYPES.items()
        ),
        *(pa.field(name, pa.int64()) for name in _LATER),
        *(pa.field(name, pa.map_(pa.string(), pa.int64())) for name in COUNTED_BY_NAME),
        pa.field("source", pa.string()),
    ],
    metadata={_VERSION_KEY: str(_VERSION)},
)


def write_manifest(location: RunLocation, receipts: Iterable[Receipt] | None = None) -> str:
    """Write a snapshot of all latest receipts under the next number; return its path.

    `receipts` are ordered by shard; by default each is read from storage. During a run, `cached_receipts` is good
    enough.
    """
    data = sealed_parquet_bytes(_tables(latest_receipts(location) if receipts is None else receipts), MANIFEST_SCHEMA)
    number = latest_snapshot(location) or 0
    while True:
        number += 1
        path = snapshot_path(number)
        if location.create_once(path, data):
            return path


def iter_manifest(location: RunLocation) -> Iterator[Receipt]:
    """Yield the receipts of the latest snapshot, ordered by shard, a few held at once; none if it is not usable.

    A damaged snapshot ends with a warning where the damage begins.
    """
    try:
        number = latest_snapshot(location)
        if number is not None:
            yield from read_snapshot(location, number)
    except _UNUSABLE as error:
        logger.warning(_PASSED_OVER, error)


def manifest_numbers(location: RunLocation) -> list[int]:
    """Return the numbers of the existing snapshots, ascending; empty if the run has not written one yet."""
    matches = (SNAPSHOT_NAME.match(file.name) for file in location.list(MANIFEST_FOLDER))
    return sorted(int(match[1]) for match in matches if match)


def read_manifest(location: RunLocation, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a snapshot by its number as a table, one row per receipt, ordered by shard; objects would take a gigabyte.

    `columns` are of `MANIFEST_SCHEMA`, in the order wanted. ConfigError if there is no such snapshot, or it is of
    another version; TransientError if it cannot be read.
    """
    uri = location.uri(snapshot_path(number))
    try:
        with _opened(location, number) as parquet:
            return parquet.read(columns=columns, use_threads=False)
    except FileNotFoundError:
        raise ConfigError(f"{uri} does not exist: the run has the snapshots {manifest_numbers(location)}") from None
    except (pa.ArrowException, OSError) as error:
        raise TransientError(damaged(uri, error)) from error


def receipts_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Return receipts as a table of `MANIFEST_SCHEMA`, in their order."""
    return pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *_tables(receipts)])


def is_manifest_complete(location: RunLocation, latest: Mapping[int, int]) -> bool:
    """Return whether the latest snapshot holds exactly these receipts: the latest generation by shard."""
    return _held(location) == latest


def holds_deleted(location: RunLocation, latest: Mapping[int, int]) -> bool:
    """Return whether the latest snapshot holds receipts that were deleted since; `latest` are those that stand."""
    return any(generation > latest.get(shard, -1) for shard, generation in _held(location).items())


def _held(location: RunLocation) -> dict[int, int]:
    """Return the generation of each shard in the latest snapshot; none if it is not usable."""
    try:
        number = latest_snapshot(location)
        if number is None:
            return {}
        commits = read_manifest(location, number, ("shard", "generation"))
    except _UNUSABLE as error:
        logger.warning(_PASSED_OVER, error)
        return {}
    return dict(zip(commits["shard"].to_pylist(), commits["generation"].to_pylist(), strict=True))


def has_results(location: RunLocation) -> bool:
    """Return whether a shard of the run is committed, or was: a repair takes receipts away, and no manifest."""
    return bool(list_receipts(location)) or latest_snapshot(location) is not None


def latest_snapshot(location: RunLocation) -> int | None:
    """Return the number of the latest snapshot, usable or not; None if there is none."""
    return max(manifest_numbers(location), default=None)


def snapshot_sha256(location: RunLocation, number: int) -> str:
    """Return the sha256 of a snapshot's bytes, 64 hex digits; FileNotFoundError if there is none."""
    digest = hashlib.sha256()
    with location.open_input(snapshot_path(number)) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_snapshot(location: RunLocation, number: int) -> Iterator[Receipt]:
    """Yield the receipts of one snapshot, ordered by shard, a few held at once.

    FileNotFoundError if there is none, ConfigError if it is of another version, TransientError if it cannot be read.
    """
    uri = location.uri(snapshot_path(number))
    with _opened(location, number) as parquet:
        try:
            for batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    row |= {name: row.get(name) or 0 for name in _LATER}
                    row |= {name: row.get(name) or {} for name in COUNTED_BY_NAME} | {"source": row.get("source")}
                    parts = {
                        table: PartRecord(**{name: row[f"{table}_part_{name}"] for name in _PART_TYPES})
                        for table in SCHEMAS
                    }
                    yield Receipt(
                        parts=parts,
                        counts=ShardCounts(**{name: row[name] for name in ShardCounts.model_fields}),
                        degraded=parse_json(row["degraded"]),
                        **{name: row[name] for name in _COPIED},
                    )
        except (LookupError, TypeError, ValueError) as error:
            # These errors mean that a column has another name or type, or that a page is damaged.
            raise TransientError(damaged(uri, error)) from error


def snapshot_path(number: int) -> str:
    """Return the path of a snapshot, `_manifest/0001.parquet`."""
    return f"{MANIFEST_FOLDER}/{number:04d}.parquet"


def snapshot_damage(location: RunLocation, number: int) -> str | None:
    """Return what is wrong with a snapshot, None if it is as it was written; FileNotFoundError if there is none."""
    with location.open_input(snapshot_path(number)) as file:
        intact = is_intact(file)
    return None if intact else f"{location.uri(snapshot_path(number))} {_CHANGED}"


def cached_receipts(
    location: RunLocation,
    anew: Container[int] = (),
    commits: Iterable[tuple[int, int]] | None = None,
    header: RunHeader | None = None,
) -> Iterator[Receipt]:
    """Yield the latest receipts ordered by shard, from the latest snapshot if it has them; a few are held at once.

    Use it for figures, not for deletion or proof: a receipt that was deleted and written again may show its old data.
    Receipts of the shards `anew`, committed since the snapshot, are read even if it has them. `commits` are the (shard,
    generation) pairs wanted, ordered by shard; by default the latest ones, listed now. ConfigError if a receipt cannot
    be used, or was deleted since it was listed.
    """
    wanted = list_receipts(location).items() if commits is None else commits
    yield from of_this_run(location, _cached(location, anew, wanted), header)


def _cached(location: RunLocation, anew: Container[int], commits: Iterable[tuple[int, int]]) -> Iterator[Receipt]:
    remaining = iter(commits)
    snapshot = iter_manifest(location)
    ahead = next(snapshot, None)
    while some := list(islice(remaining, ROWS_AT_ONCE)):
        cached: dict[tuple[int, int], Receipt] = {}
        wanted = frozenset(some)
        # One pass over the snapshot is enough, because snapshot and wanted commits are both sorted by shard.
        while ahead is not None and ahead.shard <= some[-1][0]:
            if ahead.shard not in anew and (ahead.shard, ahead.generation) in wanted:
                cached[ahead.shard, ahead.generation] = ahead
            ahead = next(snapshot, None)
        lacking = [commit for commit in some if commit not in cached]
        unread = read_receipts(location, lacking) if lacking else iter(())
        for commit in some:
            yield cached[commit] if commit in cached else next(unread)


def _tables(receipts: Iterable[Receipt]) -> Iterator[pa.Table]:
    """Yield the rows of `receipts`, one row group at a time, so that memory does not grow with the run."""
    remaining = iter(receipts)
    held: list[pa.Table] = []
    while some := [_row(receipt) for receipt in islice(remaining, ROWS_AT_ONCE)]:
        held.append(pa.Table.from_pylist(some, schema=MANIFEST_SCHEMA))
        if len(held) * ROWS_AT_ONCE >= _ROWS_A_GROUP:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


@contextmanager
def _opened(location: RunLocation, number: int) -> Iterator[pq.ParquetFile]:
    """Open a snapshot. Raises TransientError if it has changed since, ConfigError if it is of another version."""
    uri = location.uri(snapshot_path(number))
    with location.open_input(snapshot_path(number)) as file:
        intact = is_intact(file)
        if intact is False:
            raise TransientError(f"{uri} {_CHANGED}")
        parquet = open_parquet(file, uri)
        found = (parquet.schema_arrow.metadata or {}).get(_VERSION_KEY, b"")[:9].decode("utf-8", "replace")
        again = "start the run's command again, which writes another"
        refuse_other_version(uri, int(found) if found.isdecimal() else found or None, _VERSION, again=again)
        if intact is None:
            raise TransientError(f"{uri} {_CHANGED}")
        yield parquet


def _row(receipt: Receipt) -> dict[str, Any]:
    row: dict[str, Any] = receipt.model_dump(include=_COPIED)
    row["degraded"] = json.dumps(receipt.degraded, sort_keys=True)
    row |= receipt.counts.model_dump()
    for table, part in receipt.parts.items():
        row |= {f"{table}_part_{name}": value for name, value in part.model_dump().items()}
    return row


class LatestReceipts:
    """The receipts of the highest generation of each committed shard, ordered by shard, as one listing found them.

    Each pass reads them again, a few at a time, in large runs from the manifest. All passes see the same commits, even
    if more shards are committed meanwhile. `shards` are their numbers, (S,) int64. Reading one receipt costs one
    request. Reading raises ConfigError if a receipt cannot be used, or was deleted since the listing.
    """

    def __init__(self, location: RunLocation, highest: Mapping[int, int], header: RunHeader | None = None) -> None:
        """Hold what `list_receipts` found, in 12 bytes per shard; without the run's header each pass reads it."""
        self.shards = np.fromiter(highest.keys(), np.int64, len(highest))
        self._generations = np.fromiter(highest.values(), np.int32, len(highest))
        self._location, self._header = location, header

    def __len__(self) -> int:
        """Return how many shards are committed."""
        return len(self.shards)

    def __iter__(self) -> Iterator[Receipt]:
        """Yield them in order; only a few are held at once."""
        return cached_receipts(self._location, (), map(self._commit, range(len(self))), self._header)

    def __getitem__(self, place: int) -> Receipt:
        """Return the receipt at a place, which is not the shard's number; IndexError if there is none."""
        (receipt,) = read_receipts(self._location, [self._commit(place)])
        return receipt

    def _commit(self, place: int) -> tuple[int, int]:
        return int(self.shards[place]), int(self._generations[place])
