"""Draws a sample of a run's expressions, evenly over the run. Only the shards of drawn rows are read."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import read_receipts
from pseudoris.store.tables.committed_tables import read_table

# Columns beside those of the expressions table: of the row's image, and of its mask if it refers to exactly one.
_OF_IMAGE: Final = ("key", "height", "width", "sha256")
_OF_MASK: Final = ("mask_id", "segmentation", "box_xyxy_px", "area_px", "predicted_iou", "stability_score", "prior")
COLUMNS: Final = (*SCHEMAS[EXPRESSIONS].names, *_OF_IMAGE, *_OF_MASK)


def sample_expressions(
    location: RunLocation,
    size: int,
    *,
    columns: Sequence[str],
    seed: int = 0,
    kept_only: bool = True,
    receipts: Iterable[Receipt] | None = None,
) -> pa.Table:
    """Return `size` expressions in plan order: one is drawn from each of `size` equal stretches of the run.

    The same committed run and seed give the same rows.

    Args:
        location: The run's folder; the run need not be finished.
        size: Number of rows; fewer if the run has fewer.
        columns: Some of `COLUMNS`, in the order of the result.
        seed: Seed of the draw.
        kept_only: True draws from kept expressions, False from all candidates.
        receipts: Draw from these shards; None means the latest receipt of each shard, ordered by shard.

    Raises:
        ConfigError: No run was started there, a column does not exist or is given twice, or a part is missing or too
            short.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or not columns:
        raise ConfigError(f"there is no column {' '.join(unknown[:1])!r}: give some of {', '.join(COLUMNS)}")
    repeated = [name for number, name in enumerate(columns) if name in columns[:number]]
    if repeated:
        raise ConfigError(f"the column {repeated[0]!r} is asked for twice: give it once")
    require_header(location)
    commits, counts = [], []
    for receipt in cached_receipts(location) if receipts is None else receipts:
        commits.append((receipt.shard, receipt.generation))
        counts.append(receipt.counts.kept if kept_only else receipt.counts.expressions)
    rows = draw_rows(counts, size, seed)
    read = read_receipts(location, (commits[index] for index in rows))
    drawn = [
        _rows(location, receipt, rows[index], columns, kept_only=kept_only)
        for index, receipt in zip(rows, read, strict=True)
    ]
    schema = pa.schema([_field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in drawn)])


def draw_rows(counts: Sequence[int], size: int, seed: int) -> dict[int, list[int]]:
    """Return the drawn row numbers by shard: one row of each of `size` equal stretches. Shard s has `counts[s]` rows.

    Each row of a stretch is equally likely. Shards and rows are in ascending order.
    """
    ends = list(accumulate(counts))
    total = ends[-1] if ends else 0
    size = min(size, total)
    draw = random.Random(seed)
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    shard = 0
    for number in range(size):
        position = draw.randrange(number * total // size, (number + 1) * total // size)
        while position >= ends[shard]:
            shard += 1
        chosen[shard].append(position - ends[shard] + counts[shard])
    return dict(chosen)


def _rows(
    location: RunLocation, receipt: Receipt, rows: Sequence[int], columns: Sequence[str], *, kept_only: bool
) -> pa.Table:
    names = SCHEMAS[EXPRESSIONS].names
    needed = dict.fromkeys([*(name for name in columns if name in names), "image_id", "target_mask_ids", "kept"])
    table = read_table(location, EXPRESSIONS, tuple(needed), [receipt])
    if kept_only:
        table = table.filter(table["kept"])
    if rows[-1] >= table.num_rows:
        raise ConfigError(f"shard {receipt.shard} has fewer expressions than its receipt says: run `pseudoris verify`")
    table = table.take(list(rows))
    found = dict(_joined(location, receipt, table, columns))
    return pa.table({name: found[name] if name in found else table[name] for name in columns})


def _joined(
    location: RunLocation, receipt: Receipt, table: pa.Table, columns: Sequence[str]
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield the chosen image and mask columns. A mask column is null unless the row refers to exactly one mask."""
    targets = [each[0] if len(each) == 1 else None for each in table["target_mask_ids"].to_pylist()]
    of: Mapping[str, tuple[str, tuple[str, ...], pa.Array]] = {
        IMAGES: ("image_id", _OF_IMAGE, table["image_id"].combine_chunks()),
        MASKS: ("mask_id", _OF_MASK, pa.array(targets, pa.string())),
    }
    for name, (key, known, wanted_ids) in of.items():
        wanted = [column for column in columns if column in known]
        if wanted:
            other = read_table(location, name, tuple(dict.fromkeys([key, *wanted])), [receipt])
            places = pc.index_in(wanted_ids, value_set=other[key].combine_chunks())
            for column in wanted:
                yield column, other[column].combine_chunks().take(places)


def _field(name: str) -> pa.Field:
    table = EXPRESSIONS if name in SCHEMAS[EXPRESSIONS].names else IMAGES if name in _OF_IMAGE else MASKS
    field = SCHEMAS[table].field(name).with_nullable(True)
    if not pa.types.is_struct(field.type):
        return field
    # If a row does not refer to exactly one mask, the fields inside the struct are null too.
    return field.with_type(pa.struct([inner.with_nullable(True) for inner in field.type]))
