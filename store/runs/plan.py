"""The frozen plan: assigns images to shards once, by a pure rule. Called by `store`, `pipeline` and `interchange`.

    _plan/g0001/part-<first shard, 8 digits>-<first 8 hex digits of its sha256>.parquet

The parts are Parquet with one row group per shard, written before the header. A part's name gives its first shard, so
the header's list of names is enough to find a shard, and one row group is enough to read it. The same listing must give
the same plan, byte for byte.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pseudoris.files.key_order import file_of
from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import damaged, open_parquet, parquet_bytes
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import ShardsConfig
from pseudoris.schemas.ids import CONTENT_HASH_HEX_DIGITS, EIGHT_DIGITS, image_id, sha256_hex
from pseudoris.schemas.run_records import PLAN_FOLDER, PartRecord, PlanEntry, RunHeader
from pseudoris.schemas.tables import PLAN_SCHEMA
from pseudoris.store.runs.receipts import part_path
from pseudoris.store.sources.items import SourceItem
from pseudoris.store.tables.parts import read_whole, refuse_lost

# A part is built in memory. These two bounds keep it near 100 MB, and its footer near 2 MB.
MAX_SHARDS_PER_PART: Final = 1_000
MAX_ROWS_PER_PART: Final = 1_000_000

# By uri and digest, the footers of the parts that this process read last. Parsing the footer of 1,000 shards takes
# most of the time of reading the plan of one.
_FOOTERS: Final[dict[tuple[str, str], pq.FileMetaData]] = {}
_MAX_FOOTERS: Final = 4

# Generations that a session writes if SOURCE has moved begin with this letter, not with g.
MOVED: Final = "m"
_PART_NAME: Final = re.compile(rf"^[g{MOVED}][0-9]{{4}}/part-{EIGHT_DIGITS}-[0-9a-f]{{8}}\.parquet$")


def write_plan(
    location: RunLocation, entries: Iterable[PlanEntry], generation: int = 1, *, letter: str = "g"
) -> tuple[PartRecord, ...]:
    """Write the plan's parts while `entries` stream in, and return them; memory is bounded by one part.

    Entries are ordered by shard, then position: shards without a gap (an extension begins above 0), positions from 0 in
    each shard; otherwise ValueError. If this is killed, it leaves parts that no header names; writing the same entries
    again reuses them.
    """
    bundles = _bundles(_shard_tables(entries))
    folder = f"{letter}{generation:04d}"
    return tuple(put_plan_file(location, f"{folder}/part-{first:08d}", tables) for first, tables in bundles)


def put_plan_file(location: RunLocation, stem: str, tables: Sequence[pa.Table]) -> PartRecord:
    """Write tables of one schema, one row group each, as a file of the plan whose name ends with part of its sha256."""
    data = parquet_bytes(tables, tables[0].schema)
    digest = sha256_hex(data)
    name, rows = f"{stem}-{digest[:CONTENT_HASH_HEX_DIGITS]}.parquet", sum(table.num_rows for table in tables)
    part = PartRecord(name=name, rows=rows, size_bytes=len(data), sha256=digest)
    location.put_part(part_path(PLAN_FOLDER, part), data)
    return part


def read_shard_plan(location: RunLocation, header: RunHeader, shard: int) -> list[PlanEntry]:
    """Return the planned images of one shard, by position; reads one row group, and a footer once per process.

    It checks the part's size, its rows and the checksums of the pages read; `iter_plan` checks the part's digest.
    ValueError if the plan has no such shard; ConfigError if the part is not the one that the header names.
    """
    firsts = [_first_shard(part) for part in header.plan_parts]
    at = bisect_right(firsts, shard) - 1
    if at >= 0:
        record, row_group = header.plan_parts[at], shard - firsts[at]
        with _opened_part(location, record) as parquet:
            if row_group < parquet.num_row_groups:
                return _read_shard(location, record, parquet, row_group)
    raise ValueError(f"the plan has no shard {shard}. It has {header.num_shards} shards")


def stream_plan(location: RunLocation, parts: Iterable[PartRecord]) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield every shard of these parts with its planned images, in order; holds one shard in memory at a time.

    Used if several plans are read side by side. Checks and raises like `read_shard_plan`.
    """
    for record in parts:
        with _opened_part(location, record) as parquet:
            for row_group in range(parquet.num_row_groups):
                entries = _read_shard(location, record, parquet, row_group)
                yield entries[0].shard, entries


def iter_plan(location: RunLocation, header: RunHeader) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield every shard with its planned images, in order; one part is in memory at a time.

    Raises as `read_whole`, and TransientError if its rows cannot be read.
    """
    for record in header.plan_parts:
        yield from iter_plan_part(location, record)


def iter_plan_part(location: RunLocation, record: PartRecord) -> Iterator[tuple[int, list[PlanEntry]]]:
    """Yield the shards of one part as `iter_plan` does. Its bytes are checked before the first one.

    Raises as `read_whole`, and TransientError if its rows cannot be read.
    """
    data = read_whole(location, PLAN_FOLDER, record)
    parquet = open_parquet(pa.BufferReader(data), location.uri(part_path(PLAN_FOLDER, record)))
    for row_group in range(parquet.num_row_groups):
        entries = _read_shard(location, record, parquet, row_group)
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
        # The table is built column by column, because `asdict` copies every value and takes three times as long.
        columns = [pa.array([getattr(entry, field.name) for entry in rows], field.type) for field in PLAN_SCHEMA]
        yield shard, pa.Table.from_arrays(columns, schema=PLAN_SCHEMA)
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


def moved_folders(location: RunLocation) -> list[str]:
    """Return the folders of plans of a moved SOURCE: the workers of one session need them, and nothing after them."""
    names = (name for name, _ in location.list_obstacles(PLAN_FOLDER))
    return [f"{PLAN_FOLDER}/{name}" for name in names if name.startswith(MOVED)]


def moved_parts(location: RunLocation) -> list[str]:
    """Return the paths of plans of a moved SOURCE."""
    return [f"{folder}/{file.name}" for folder in moved_folders(location) for file in location.list(folder)]


def remove_moved(location: RunLocation) -> None:
    """Delete the plans of a moved SOURCE, and what a killed writer left of them; only under the run's lock."""
    for path in moved_parts(location):
        location.delete(path)
    for folder in moved_folders(location):
        location.delete_temporary(folder)
        location.delete_empty(folder)


def _first_shard(part: PartRecord) -> int:
    match = _PART_NAME.match(part.name)
    if match is None:
        raise ConfigError(f"the header names a plan part {part.name!r}: expected g0001/part-00000000-<hash>.parquet")
    return int(match[1])


@contextmanager
def _opened_part(location: RunLocation, record: PartRecord) -> Iterator[pq.ParquetFile]:
    refuse_lost(location, PLAN_FOLDER, record, {})
    path = part_path(PLAN_FOLDER, record)
    key = (location.uri(path), record.sha256)
    with location.open_input(path) as file:
        parquet = open_parquet(file, key[0], _FOOTERS.get(key))
        while len(_FOOTERS) >= _MAX_FOOTERS and key not in _FOOTERS:
            _FOOTERS.pop(next(iter(_FOOTERS)), None)
        _FOOTERS[key] = parquet.metadata
        yield parquet


def _read_shard(location: RunLocation, record: PartRecord, parquet: pq.ParquetFile, row_group: int) -> list[PlanEntry]:
    try:
        return [PlanEntry(**row) for row in parquet.read_row_group(row_group, use_threads=False).to_pylist()]
    except (pa.ArrowException, OSError, TypeError, UnicodeDecodeError) as error:
        # `PlanEntry` raises TypeError if a column has another name.
        raise TransientError(damaged(location.uri(f"{PLAN_FOLDER}/{record.name}"), error)) from error


@dataclass(slots=True)
class PlanTally:
    """Counts of `assign_shards`, up to the last row that it yielded; sizes are the expected ones.

    `num_repeated` counts listed images whose key was already listed. `max_shard_bytes` is the size of the largest
    shard.
    """

    num_images: int = 0
    num_shards: int = 0
    num_repeated: int = 0
    size_bytes: int = 0
    max_shard_bytes: int = 0


def assign_shards(
    items: Iterable[SourceItem], config: ShardsConfig, *, tally: PlanTally | None = None
) -> Iterator[PlanEntry]:
    """Yield the plan's rows for `items`, in their order: shards numbered from 0, positions from 0 in each shard.

    A shard ends before the item that would exceed `max_images` or `max_bytes`, and where the `boundary` of the items
    changes. An item larger than `max_bytes` gets a shard of its own. Of several items with the same key, the first is
    planned and the others are counted. `items` have the order of `Source.list`, otherwise ValueError: repeated files
    could not be detected. Memory does not grow with the number of images. `tally` is updated along the way.
    """
    tally = PlanTally() if tally is None else tally
    position, size_bytes, boundary = 0, 0, None
    for item, name in _first_listed(items, tally):
        fits = position < config.max_images and size_bytes + item.expected_bytes <= config.max_bytes
        if tally.num_images == 0 or not fits or item.boundary != boundary:
            tally.num_shards += 1
            position, size_bytes, boundary = 0, 0, item.boundary
        entry = PlanEntry(
            shard=tally.num_shards - 1,
            position=position,
            image_id=name,
            key=item.key,
            size_bytes=item.size_bytes,
            etag=item.etag,
            mtime_ns=item.mtime_ns,
            offset_bytes=item.offset_bytes,
            row_group=item.row_group,
            row=item.row,
        )
        # The row is counted before the yield: a consumer that takes this row and stops never resumes the loop.
        position += 1
        size_bytes += item.expected_bytes
        tally.num_images += 1
        tally.size_bytes += item.expected_bytes
        tally.max_shard_bytes = max(tally.max_shard_bytes, size_bytes)
        yield entry


def _first_listed(items: Iterable[SourceItem], tally: PlanTally) -> Iterator[tuple[SourceItem, str]]:
    """Yield each item that is listed for the first time, with its image id; count the others."""
    # A repeated file follows itself directly, and repeated members are in the same tar. So only the ids of one tar's
    # members are held, about 70 bytes each.
    last, last_row, ids = "", -1, set[int]()
    for item in items:
        file, name = file_of(item.key), image_id(item.key)
        if file < last:
            raise ValueError(f"the listing is out of order: {file!r} comes after {last!r}")
        if file != last:
            last, last_row, ids = file, -1, set()
        if item.row is None:
            is_repeated = (number := int(name, 16)) in ids
            ids.add(number)
        else:
            is_repeated = item.row <= last_row
            last_row = max(item.row, last_row)
        if is_repeated:
            tally.num_repeated += 1
        else:
            yield item, name
