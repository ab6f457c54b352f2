"""The frozen listing of a run's input: Parquet parts with one row group a shard, written before the header.

    _plan/g0001/part-<first shard, 8 digits>-<first 8 hex digits of its sha256>.parquet

A part's name gives its first shard. So the header's list of names is enough to find a shard, and its rows are one row
group.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.ids import CONTENT_HASH_HEX_DIGITS, sha256_hex
from pseudoris.schemas.run_records import PLAN_FOLDER, PartRecord, PlanEntry, RunHeader
from pseudoris.schemas.tables import PLAN_SCHEMA
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.parquet_files import damaged, open_parquet, parquet_bytes

# A part is built and hashed in memory: the two bounds keep it near 100 MB, and its footer near 2 MB.
MAX_SHARDS_PER_PART: Final = 1_000
MAX_ROWS_PER_PART: Final = 1_000_000

# By uri and digest, the footers of the parts that this process read last. Parsing the footer of 1,000 shards takes
# most of the time of reading the plan of one.
_FOOTERS: Final[dict[tuple[str, str], pq.FileMetaData]] = {}
_MAX_FOOTERS: Final = 4

_PART_NAME: Final = re.compile(r"^g\d{4}/part-(\d{8,})-[0-9a-f]{8}\.parquet$")


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What `write_plan` wrote: the parts in order (names relative to `_plan/`), the numbers of images and shards."""

    parts: tuple[PartRecord, ...]
    num_images: int
    num_shards: int


def write_plan(location: RunLocation, entries: Iterable[PlanEntry], generation: int = 1) -> PlanSummary:
    """Write the plan's parts while `entries` stream in; memory is bounded by one part.

    If it is killed halfway, it leaves parts that no header names; writing the same entries again reuses them.

    Args:
        location: The run's folder.
        entries: Ordered by shard, then position. Shard numbers have no gap (for an extension the first one may be above
            0), and positions count from 0 in each shard.
        generation: 1 for the first plan, higher for extensions.

    Raises:
        ValueError: The entries are out of order or leave a gap.
        ConfigError: The location cannot be written.
        TransientError: Storage failed.
    """
    parts: list[PartRecord] = []
    num_shards = 0
    for first_shard, tables in _bundles(_shard_tables(entries)):
        parts.append(_write_part(location, generation, first_shard, tables))
        num_shards += len(tables)
    return PlanSummary(tuple(parts), sum(part.rows for part in parts), num_shards)


def read_shard_plan(location: RunLocation, header: RunHeader, shard: int) -> list[PlanEntry]:
    """Return the planned images of one shard, by position; reads one row group, and a footer once a process.

    It checks the part's size, its rows and the checksums of the pages read, but not the digest of the whole part:
    `iter_plan` does that.

    Raises:
        ValueError: The plan has no such shard.
        ConfigError: The part is missing or is not the one that the header names.
        TransientError: Storage failed.
    """
    firsts = [_first_shard(part) for part in header.plan_parts]
    at = bisect_right(firsts, shard) - 1
    if at < 0:
        raise ValueError(f"the plan has no shard {shard}. It has {header.num_shards} shards")
    record = header.plan_parts[at]
    with _opened_part(location, record) as parquet:
        row_group = shard - firsts[at]
        if row_group >= parquet.num_row_groups:
            raise ValueError(f"the plan has no shard {shard}. It has {header.num_shards} shards")
        return _read_shard(location, record, parquet, row_group)


def stream_plan(location: RunLocation, parts: Iterable[PartRecord]) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield every shard of these parts with its planned images, in order; holds one shard in memory at a time.

    For plans that are read side by side. Checks and raises like `read_shard_plan`.
    """
    for record in parts:
        with _opened_part(location, record) as parquet:
            for row_group in range(parquet.num_row_groups):
                entries = _read_shard(location, record, parquet, row_group)
                yield entries[0].shard, entries


def iter_plan(location: RunLocation, header: RunHeader) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield every shard with its planned images, in order; holds one part in memory at a time.

    Raises:
        ConfigError: A part is missing, or its bytes do not have the digest in the header.
        TransientError: Storage failed.
    """
    for record in header.plan_parts:
        yield from iter_plan_part(location, record)


def iter_plan_part(location: RunLocation, record: PartRecord) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield the shards of one part as `iter_plan` does. Its bytes are checked before the first one."""
    path = f"{PLAN_FOLDER}/{record.name}"
    try:
        data = location.read_bytes(path)
    except FileNotFoundError:
        raise ConfigError(_not_the_part(location, path, "a file", location.obstacle(path) or "none")) from None
    if sha256_hex(data) != record.sha256:
        raise ConfigError(_not_the_part(location, path, f"sha256 {record.sha256}", sha256_hex(data)))
    parquet = open_parquet(pa.BufferReader(data), location.uri(path))
    for row_group in range(parquet.num_row_groups):
        entries = _entries(parquet.read_row_group(row_group, use_threads=False))
        yield entries[0].shard, entries


def shards_of_parts(header: RunHeader) -> Iterator[tuple[PartRecord, range]]:
    """Yield the parts of the plan and the shards that each should hold, in order; no part is read."""
    bounds = [*(_first_shard(part) for part in header.plan_parts), header.num_shards]
    for part, first, end in zip(header.plan_parts, bounds, bounds[1:], strict=False):
        yield part, range(first, end)


def _shard_tables(entries: Iterable[PlanEntry]) -> Iterator[tuple[int, pa.Table]]:
    due: int | None = None
    for shard, group in groupby(entries, key=lambda entry: entry.shard):
        if due not in (None, shard):
            raise ValueError(f"the plan must be ordered by shard without a gap: expected shard {due}, got {shard}")
        rows = list(group)
        for position, entry in enumerate(rows):
            if entry.position != position:
                raise ValueError(f"shard {shard}: expected position {position}, got {entry.position} ({entry.key})")
        # Column by column: `asdict` deep-copies every value, which takes two thirds of the time for 100 million rows.
        columns = [[getattr(entry, name) for entry in rows] for name in PLAN_SCHEMA.names]
        yield (
            shard,
            pa.Table.from_arrays(
                [pa.array(values, field.type) for values, field in zip(columns, PLAN_SCHEMA, strict=True)],
                schema=PLAN_SCHEMA,
            ),
        )
        due = shard + 1


def _bundles(tables: Iterable[tuple[int, pa.Table]]) -> Iterator[tuple[int, list[pa.Table]]]:
    """Group tables into parts, each with its first shard; a part holds at least one table."""
    first_shard, bundle, num_rows = 0, list[pa.Table](), 0
    for shard, table in tables:
        if bundle and (len(bundle) == MAX_SHARDS_PER_PART or num_rows + table.num_rows > MAX_ROWS_PER_PART):
            yield first_shard, bundle
            bundle, num_rows = [], 0
        first_shard = first_shard if bundle else shard
        bundle.append(table)
        num_rows += table.num_rows
    if bundle:
        yield first_shard, bundle


def _write_part(location: RunLocation, generation: int, first_shard: int, tables: list[pa.Table]) -> PartRecord:
    data = parquet_bytes(tables, PLAN_SCHEMA)
    digest = sha256_hex(data)
    name = f"g{generation:04d}/part-{first_shard:08d}-{digest[:CONTENT_HASH_HEX_DIGITS]}.parquet"
    location.put_part(f"{PLAN_FOLDER}/{name}", data)
    rows = sum(table.num_rows for table in tables)
    return PartRecord(name=name, rows=rows, size_bytes=len(data), sha256=digest)


def _first_shard(part: PartRecord) -> int:
    match = _PART_NAME.match(part.name)
    if match is None:
        raise ConfigError(f"the header names a plan part {part.name!r}: expected g0001/part-00000000-<hash>.parquet")
    return int(match[1])


@contextmanager
def _opened_part(location: RunLocation, record: PartRecord) -> Iterator[pq.ParquetFile]:
    path = f"{PLAN_FOLDER}/{record.name}"
    if location.size(path) != record.size_bytes:
        raise ConfigError(_not_the_part(location, path, f"{record.size_bytes} bytes", f"{location.size(path)}"))
    key = (location.uri(path), record.sha256)
    with location.open_input(path) as file:
        parquet = open_parquet(file, key[0], _FOOTERS.get(key))
        while len(_FOOTERS) >= _MAX_FOOTERS and key not in _FOOTERS:
            _FOOTERS.pop(next(iter(_FOOTERS)), None)
        _FOOTERS[key] = parquet.metadata
        yield parquet


def _read_shard(location: RunLocation, record: PartRecord, parquet: pq.ParquetFile, row_group: int) -> list[PlanEntry]:
    try:
        return _entries(parquet.read_row_group(row_group, use_threads=False))
    except (pa.ArrowException, OSError, TypeError, UnicodeDecodeError) as error:
        # TypeError: a column has another name.
        raise TransientError(damaged(location.uri(f"{PLAN_FOLDER}/{record.name}"), error)) from error


def _entries(table: pa.Table) -> list[PlanEntry]:
    return [PlanEntry(**row) for row in table.to_pylist()]


def _not_the_part(location: RunLocation, path: str, expected: str, got: str) -> str:
    return (
        f"{location.uri(path)} is not the plan that _run.json names: expected {expected}, got {got}. "
        "Restore the file from a copy, or start again with another output"
    )
