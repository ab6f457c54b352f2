"""A run's tables for evaluations: one image at a time, in columns, without pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_lengths import summarise_rle
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.evaluation.truth import DECODERS, CandidateTable, ImageTruth, Ints, Truth

_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "status")
_MASK_COLUMNS: Final = ("image_id", "mask_id", "segmentation")


@dataclass(frozen=True, slots=True, eq=False)
class RunImage:
    """A committed image; `candidates` is None of a quarantined one."""

    image_id: str
    key: str
    candidates: CandidateTable | None

    def known_to(self, truth: Truth) -> ImageTruth | None:
        """Return the truth's knowledge of the image; None if it does not have the image."""
        known = truth.of_image(self.image_id)
        if known is not None and self.candidates is not None and self.candidates.size != tuple(known.size):
            height, width = self.candidates.size
            raise ConfigError(
                f"image {self.key} has {height} x {width} pixels (height x width) in the run, but {known.size[0]} x "
                f"{known.size[1]} in the truth. Name the truth of the same images."
            )
        return known


@dataclass(frozen=True, slots=True, eq=False)
class ShardTables:
    """The tables of a shard, in memory; rows of one image are consecutive.

    Attributes:
        images: `_IMAGE_COLUMNS`, N rows in plan order.
        masks: `_MASK_COLUMNS`.
        expressions: The requested columns.
        mask_starts: (N + 1,) int64: image n has the masks from `mask_starts[n]` to `mask_starts[n + 1]`.
        expression_starts: Likewise.
    """

    images: pa.Table
    masks: pa.Table
    expressions: pa.Table
    mask_starts: Ints
    expression_starts: Ints


def read_shard(location: RunLocation, receipt: Receipt, *expression_columns: str) -> ShardTables:
    """Return a shard's tables, of the expressions `image_id` and the given columns."""
    images = read_table(location, IMAGES, _IMAGE_COLUMNS, [receipt])
    masks = read_table(location, MASKS, _MASK_COLUMNS, [receipt])
    expressions = read_table(location, EXPRESSIONS, ("image_id", *expression_columns), [receipt])
    where = f"shard {receipt.shard} of {location.root}"
    masks, mask_starts = _by_image(masks, images["image_id"], f"the masks of {where}")
    expressions, starts = _by_image(expressions, images["image_id"], f"the expressions of {where}")
    return ShardTables(images, masks, expressions, mask_starts, starts)


def iter_images(tables: ShardTables) -> Iterator[RunImage]:
    """Yield the images of a shard in plan order.

    It was read with the columns `target_mask_ids`, `text`, `samples`, `kept`, `kind` and `source`.
    """
    table = tables.expressions
    texts, targets = table["text"].to_pylist(), table["target_mask_ids"].to_pylist()
    kinds, sources = table["kind"].to_pylist(), table["source"].to_pylist()
    draws, is_kept = _draws(table["samples"]), table["kept"].to_numpy().astype(np.bool_)
    mask_ids, counts = tables.masks["mask_id"].to_pylist(), _counts(tables.masks)
    for number, row in enumerate(tables.images.to_pylist()):
        if row["status"] == STATUS_QUARANTINED:
            yield RunImage(row["image_id"], row["key"], None)
            continue
        masks = slice(*tables.mask_starts[number : number + 2].tolist())
        rows = slice(*tables.expression_starts[number : number + 2].tolist())
        size = (row["height"], row["width"])
        check_masks(counts[masks], size, where=row["key"])
        candidates = CandidateTable(
            size=size,
            mask_ids=mask_ids[masks],
            mask_counts=counts[masks],
            texts=texts[rows],
            targets=targets[rows],
            draws=draws[rows],
            is_kept=is_kept[rows],
            kinds=kinds[rows],
            sources=sources[rows],
        )
        yield RunImage(row["image_id"], row["key"], candidates)


def check_masks(counts: list[str], size: tuple[int, int], *, where: str) -> None:
    """Raise ConfigError for a mask that does not fill the image `where`: pycocotools would read past its buffers."""
    for number, each in enumerate(counts):
        try:
            summarise_rle(*size, each)
        except ValueError as error:
            raise ConfigError(
                f"mask {number} of image {where} is damaged: {error}. Run `pseudoris verify` to find all damage."
            ) from error


def image_masks(tables: ShardTables, number: int) -> tuple[list[str], list[str]]:
    """Return ids and RLE counts of the masks of image `number` of a shard."""
    start, stop = tables.mask_starts[number : number + 2].tolist()
    rows = tables.masks.slice(start, stop - start)
    return rows["mask_id"].to_pylist(), _counts(rows)


def _counts(masks: pa.Table) -> list[str]:
    return [each["counts"] for each in masks["segmentation"].to_pylist()]


def _draws(samples: pa.ChunkedArray) -> Ints:
    """Return how many draws each row has of each of `DECODERS`, then of any other, (R, 4) int64."""
    lists = pa.concat_arrays([pa.array([], samples.type), *samples.chunks])
    rows = pc.list_parent_indices(lists).to_numpy()
    names = pc.struct_field(pc.list_flatten(lists), "decoder")
    places = pc.fill_null(pc.index_in(names, value_set=pa.array(DECODERS)), len(DECODERS)).to_numpy()
    width = len(DECODERS) + 1
    flat = np.bincount(rows * width + places, minlength=len(lists) * width)
    return flat.astype(np.int64).reshape(-1, width)


def _by_image(table: pa.Table, image_ids: pa.ChunkedArray, what: str) -> tuple[pa.Table, Ints]:
    """Return the table ordered by image as `image_ids` are, and where each image's rows start, (N + 1,) int64."""
    places = pc.index_in(table["image_id"], value_set=pa.concat_arrays([pa.array([], pa.string()), *image_ids.chunks]))
    if places.null_count:
        raise ConfigError(f"{what} name an image that is not in the shard. Run `pseudoris verify`.")
    numbers = places.to_numpy().astype(np.int64)
    # They are written in order already.
    if len(numbers) and (np.diff(numbers) < 0).any():
        table = table.take(np.argsort(numbers, kind="stable"))
    starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(image_ids)))])
    return table, starts.astype(np.int64)
