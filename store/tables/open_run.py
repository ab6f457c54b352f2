"""A run that is open for reading: its header, its latest receipts, and each committed shard with its tables joined.

Most rooms read runs through it. It reads only parts that receipts name, and refuses rows that belong to no image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.keep_rule import Ints
from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.schemas.shard import Failure
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, SCHEMAS, STATUS_QUARANTINED
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import LatestReceipts
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.store.tables.parts import RowFilter, chosen_schema, read_selected
from pseudoris.store.tables.proven_rows import prove_rows

Row = dict[str, Any]


class QuarantinedImage(NamedTuple):
    """One quarantined image with its reason; `reason` is a code of `tables.FAILURE_REASONS`."""

    key: str
    stage: str
    reason: str
    message: str


DAMAGED_IMAGES: Final = "the table images of shard {} is damaged: run `pseudoris verify`"
# Readers add these columns to each expression: those of its image, and those of its mask if it has exactly one.
COLUMNS_BESIDE: Final = {
    IMAGES: ("key", "height", "width", "sha256"),
    MASKS: ("mask_id", "segmentation", "box_xyxy_px", "area_px", "predicted_iou", "stability_score", "prior"),
}
COLUMNS: Final = (*SCHEMAS[EXPRESSIONS].names, *COLUMNS_BESIDE[IMAGES], *COLUMNS_BESIDE[MASKS])


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run, finished or not, as it is when it is opened: the header is read once, the receipts are listed once.

    Shards that are committed later are not seen. Nothing is written.
    """

    location: RunLocation
    header: RunHeader
    receipts: LatestReceipts

    @classmethod
    def at(cls, location: RunLocation, commits: Iterable[tuple[int, int]] | None = None) -> Self:
        """Open the run at `location`; ConfigError if none was started there.

        `commits` are the shards and generations to read, ordered by shard; the latest by default.
        """
        header = require_header(location)
        highest = list_receipts(location) if commits is None else dict(commits)
        return cls(location, header, LatestReceipts(location, highest, header))

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return len(self.receipts) == self.header.num_shards

    def shards(self) -> Iterator[CommittedShard]:
        """Yield the committed shards in order."""
        return (CommittedShard(self.location, receipt) for receipt in self.receipts)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of a table of all shards, in memory; all columns by default."""
        schema = chosen_schema(name, columns)
        return pa.concat_tables([schema.empty_table(), *(shard.table(name, columns) for shard in self.shards())])

    def quarantined(self) -> Iterator[QuarantinedImage]:
        """Yield each quarantined image, in plan order."""
        for shard in self.shards():
            if shard.receipt.parts[FAILURES].rows:
                failures = shard.table(FAILURES)
                ids, images = failures["image_id"].combine_chunks(), shard.table(IMAGES, ("image_id", "key"))
                keys = rows_by_id(ids, images, "image_id", where=str(shard))["key"].to_pylist()
                for key, failure in zip(keys, failures_by_image(failures).values(), strict=True):
                    yield QuarantinedImage(key, *astuple(failure))

    def shard(self, place: int) -> CommittedShard:
        """Return the shard at a place among the committed ones, which is not its number."""
        return CommittedShard(self.location, self.receipts[place])


@dataclass(frozen=True, slots=True)
class CommittedShard:
    """The tables of a committed shard, as its receipt names them. Nothing is kept in memory.

    Reading raises:
        ConfigError: A part is missing or damaged, or another version of the package wrote it.
    """

    location: RunLocation
    receipt: Receipt

    def __str__(self) -> str:
        return f"shard {self.receipt.shard} of {self.location.root}"

    def table(self, name: str, columns: Sequence[str] | None = None, keep: RowFilter | None = None) -> pa.Table:
        """Return the columns of the rows of a table that `keep` accepts; all columns and rows by default."""
        names = SCHEMAS[name].names if columns is None else columns
        return read_selected(self.location, name, self.receipt.parts[name].name, names, keep)

    def shown(self, columns: Sequence[str]) -> pa.Table:
        """Return columns of the images that are not quarantined, in plan order; `bytes` is null unless embedded."""
        # The filter is made here, because the conversion of a value loads pandas, which would slow down `--help`.
        keep = RowFilter(pc.field("status") != STATUS_QUARANTINED, ("status",))
        return self.table(IMAGES, columns, keep)

    def num_masks(self) -> Ints:
        """Return the masks of each image that is not quarantined, (I,) int64, in no order; reads one column."""
        return occurrences(self.table(MASKS, ("image_id",))["image_id"], self.receipt.counts.num_shown)

    def joined(
        self,
        images: Sequence[str],
        masks: Sequence[str] | None = (),
        expressions: Sequence[str] | None = (),
        *,
        said_rows: RowFilter | None = None,
        with_quarantined: bool = False,
    ) -> JoinedTables:
        """Return columns of the three tables by image; None for all columns. A quarantined image has no other rows.

        `said_rows` says which expressions; all by default.
        """
        shown = self.table(IMAGES, _with_id(images)) if with_quarantined else self.shown(_with_id(images))
        if shown.num_rows != (self.receipt.counts.images if with_quarantined else self.receipt.counts.num_shown):
            raise ConfigError(DAMAGED_IMAGES.format(self.receipt.shard))
        of_masks = self.table(MASKS, masks if masks is None else _with_id(masks))
        said = self.table(EXPRESSIONS, expressions if expressions is None else _with_id(expressions), said_rows)
        return JoinedTables.of(shown, of_masks, said, where=str(self))

    def beside(self, said: pa.Table, columns: Mapping[str, Sequence[str]]) -> dict[str, pa.Array]:
        """Return columns of the tables `images` and `masks` for rows of the table of expressions, by their names.

        A column of `masks` is null unless the row refers to exactly one mask. `said` has `image_id` and
        `target_mask_ids`.
        """
        targets = [each[0] if len(each) == 1 else None for each in said["target_mask_ids"].to_pylist()]
        ids = {
            IMAGES: ("image_id", said["image_id"].combine_chunks()),
            MASKS: ("mask_id", pa.array(targets, pa.string())),
        }
        found: dict[str, pa.Array] = {}
        for name, wanted in columns.items():
            if wanted:
                key, of_rows = ids[name]
                other = self.table(name, tuple(dict.fromkeys([key, *wanted])))
                rows = rows_by_id(of_rows, other, key, where=str(self))
                found |= {column: rows[column].combine_chunks() for column in wanted}
        return found


@dataclass(frozen=True, slots=True, eq=False)
class JoinedTables:
    """The tables of a shard in memory: I images in plan order, and the rows of each one after the other.

    Image i has the masks from `mask_starts[i]` to `mask_starts[i + 1]`, (I + 1,) int64; expressions likewise. Rows are
    proven (`prove_rows`) when they are given; `where` names the tables in its errors.
    """

    images: pa.Table
    masks: pa.Table
    expressions: pa.Table
    mask_starts: Ints
    expression_starts: Ints
    where: str

    @classmethod
    def of(cls, images: pa.Table, masks: pa.Table, expressions: pa.Table, *, where: str) -> Self:
        """Join three tables by `image_id`; ConfigError, which names `where`, if a row has none of the images."""
        ids = images["image_id"]
        mask_starts = _starts(masks, ids, f"the masks of {where}")
        starts = _starts(expressions, ids, f"the expressions of {where}")
        return cls(images, masks, expressions, mask_starts, starts, where)

    def take(self, places: Sequence[int] | Ints) -> JoinedTables:
        """Return some of the images, in the order of `places`, with their rows."""
        chosen = np.asarray(places, np.int64)
        masks, mask_starts = _taken(self.masks, self.mask_starts, chosen)
        said, starts = _taken(self.expressions, self.expression_starts, chosen)
        return JoinedTables(self.images.take(pa.array(chosen)), masks, said, mask_starts, starts, self.where)

    def image(self, place: int) -> tuple[Row, pa.Table, pa.Table]:
        """Return an image's row, and the tables of its masks and its expressions."""
        masks, said = (
            table.slice(starts[place], starts[place + 1] - starts[place])
            for table, starts in ((self.masks, self.mask_starts), (self.expressions, self.expression_starts))
        )
        images = self.images.slice(place, 1)
        prove_rows(images, masks, said, where=self.where)
        return *images.to_pylist(), masks, said

    def rows(self) -> Iterator[tuple[Row, list[Row], list[Row]]]:
        """Yield each image's row, and the rows of its masks and its expressions, without their `image_id`."""
        prove_rows(self.images, self.masks, self.expressions, where=self.where)
        masks, said = (table.drop_columns("image_id").to_pylist() for table in (self.masks, self.expressions))
        for place, row in enumerate(self.images.to_pylist()):
            own = masks[self.mask_starts[place] : self.mask_starts[place + 1]]
            yield row, own, said[self.expression_starts[place] : self.expression_starts[place + 1]]


def rows_by_id(ids: pa.Array, table: pa.Table, key: str, *, where: str) -> pa.Table:
    """Return the row of each id, in the order of `ids`; a null id has a row of nulls.

    ConfigError, which names `where`, if the column `key` of the table lacks an id.
    """
    places = pc.index_in(ids, value_set=table[key].combine_chunks())
    if places.null_count > ids.null_count:
        raise lost_row(where, key, ids.filter(pc.is_null(places)).drop_null()[0])
    return table.take(places)


def places_by_mask(mask_ids: Iterable[str], targets: Iterable[Sequence[str]], *, where: str) -> dict[str, list[int]]:
    """Return, for each mask, the places of the expressions that refer to it; `targets` are the masks of each one.

    ConfigError, which names `where`, for a mask that is not among `mask_ids`.
    """
    found: dict[str, list[int]] = {mask_id: [] for mask_id in mask_ids}
    for place, of_expression in enumerate(targets):
        for mask_id in of_expression:
            if mask_id not in found:
                raise lost_row(where, "mask_id", mask_id)
            found[mask_id].append(place)
    return found


def failures_by_image(failures: pa.Table) -> dict[str, Failure]:
    """Return why each image was quarantined, by image id, from all columns of the table `failures`."""
    rows = failures.to_pylist()
    return {row["image_id"]: Failure(row["stage"], row["reason"], row["message"]) for row in rows}


def lost_row(where: str, key: str, row_id: object) -> ConfigError:
    """Return the error for rows of an image or a mask that the tables of `where` lack."""
    return ConfigError(
        f"Rows of {where} name the {key.removesuffix('_id')} {row_id}, which is not in its tables. Run "
        "`pseudoris verify` to find all damage."
    )


def occurrences(ids: pa.ChunkedArray, num_ids: int) -> Ints:
    """Return how often each of `num_ids` ids occurs in the column, in no order; 0 for ids that do not occur."""
    counts = ids.value_counts().field(1).to_numpy()
    return np.pad(counts, (0, max(num_ids - len(counts), 0))).astype(np.int64)


def _with_id(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("image_id", *columns)))


def _taken(table: pa.Table, starts: Ints, places: Ints) -> tuple[pa.Table, Ints]:
    lengths = starts[places + 1] - starts[places]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(ends[-1]) + np.repeat(starts[places] - ends[:-1], lengths)
    return table.take(pa.array(rows)), ends


def _starts(table: pa.Table, image_ids: pa.ChunkedArray, what: str) -> Ints:
    """Return where each image's rows start, (I + 1,) int64; rows come by image, in the order of `image_ids`."""
    places = pc.index_in(table["image_id"], value_set=pa.concat_arrays([pa.array([], pa.string()), *image_ids.chunks]))
    numbers = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    if (np.diff(numbers, prepend=0) < 0).any():
        raise ConfigError(f"{what} are not those of its images, in their order. Run `pseudoris verify`.")
    return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(image_ids)))]).astype(np.int64)
