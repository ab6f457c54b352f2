"""A run's tables for evaluations: one image at a time, in columns, without pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.keep_rule import Ints
from pseudoris.schemas.run_lengths import summarise_rle
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.evaluation.truth import DECODERS, CandidateTable, ImageTruth, Truth

_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "status")
_MASK_COLUMNS: Final = ("image_id", "mask_id", "segmentation")
# Of the expressions table: what `RunImage.candidates` needs.
CANDIDATE_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source")


@dataclass(frozen=True, slots=True, eq=False)
class RunImage:
    """A committed image with its masks, as COCO compressed RLE, and its expressions in the columns that were read.

    A quarantined one has neither, and no `size`, which is (H, W) in pixels.
    """

    image_id: str
    key: str
    is_quarantined: bool
    size: tuple[int, int]
    mask_ids: list[str]
    mask_counts: list[str]
    expressions: pa.Table

    @property
    def candidates(self) -> CandidateTable:
        """Its expressions; read with `CANDIDATE_COLUMNS`."""
        columns = {name: self.expressions[name].to_pylist() for name in ("text", "target_mask_ids", "kind", "source")}
        return CandidateTable(
            self.size,
            self.mask_ids,
            self.mask_counts,
            texts=columns["text"],
            targets=columns["target_mask_ids"],
            draws=_draws(self.expressions["samples"]),
            is_kept=self.expressions["kept"].to_numpy().astype(np.bool_),
            kinds=columns["kind"],
            sources=columns["source"],
        )

    def known_to(self, truth: Truth) -> ImageTruth | None:
        """Return the truth's knowledge of the image; None if it does not have the image."""
        known = truth.of_image(self.image_id)
        if known is not None and not self.is_quarantined and self.size != tuple(known.size):
            height, width = self.size
            raise ConfigError(
                f"image {self.key} has {height} x {width} pixels (height x width) in the run, but {known.size[0]} x "
                f"{known.size[1]} in the truth. Name the truth of the same images."
            )
        return known


@dataclass(frozen=True, slots=True, eq=False)
class ShardTables:
    """The tables of a shard of the run at `root`, in memory: N images in plan order; rows of one are consecutive.

    Image n has the masks from `mask_starts[n]` to `mask_starts[n + 1]`, (N + 1,) int64; expressions likewise.
    """

    root: str
    images: pa.Table
    masks: pa.Table
    expressions: pa.Table
    mask_starts: Ints
    expression_starts: Ints

    def __iter__(self) -> Iterator[RunImage]:
        """Yield the images in plan order."""
        return map(self.image, range(len(self.images)))

    def image(self, number: int) -> RunImage:
        """Return an image; ConfigError for a damaged mask: pycocotools would read past its buffers."""
        (row,) = self.images.slice(number, 1).to_pylist()
        masks, said = (
            table.slice(starts[number], starts[number + 1] - starts[number])
            for table, starts in ((self.masks, self.mask_starts), (self.expressions, self.expression_starts))
        )
        counts = [each["counts"] for each in masks["segmentation"].to_pylist()]
        size, is_quarantined = (row["height"], row["width"]), row["status"] == STATUS_QUARANTINED
        for place, each in enumerate(counts):
            try:
                summarise_rle(*size, each)
            except ValueError as error:
                raise ConfigError(
                    f"mask {place} of image {row['key']} of {self.root} is damaged: {error}. Run `pseudoris verify` to "
                    "find all damage."
                ) from error
        mask_ids = masks["mask_id"].to_pylist()
        return RunImage(row["image_id"], row["key"], is_quarantined, size, mask_ids, counts, said)


def read_shard(location: RunLocation, receipt: Receipt, *expression_columns: str) -> ShardTables:
    """Return a shard's tables, of the expressions `image_id` and the given columns."""
    images = read_table(location, IMAGES, _IMAGE_COLUMNS, [receipt])
    masks = read_table(location, MASKS, _MASK_COLUMNS, [receipt])
    expressions = read_table(location, EXPRESSIONS, ("image_id", *expression_columns), [receipt])
    where = f"shard {receipt.shard} of {location.root}"
    mask_starts = _starts(masks, images["image_id"], f"the masks of {where}")
    starts = _starts(expressions, images["image_id"], f"the expressions of {where}")
    return ShardTables(location.root, images, masks, expressions, mask_starts, starts)


def _draws(samples: pa.ChunkedArray) -> Ints:
    """Return how many draws each row has of each of `DECODERS`, then of any other, (R, 4) int64."""
    lists = pa.concat_arrays([pa.array([], samples.type), *samples.chunks])
    rows = pc.list_parent_indices(lists).to_numpy()
    names = pc.struct_field(pc.list_flatten(lists), "decoder")
    places = pc.fill_null(pc.index_in(names, value_set=pa.array(DECODERS)), len(DECODERS)).to_numpy()
    width = len(DECODERS) + 1
    flat = np.bincount(rows * width + places, minlength=len(lists) * width)
    return flat.astype(np.int64).reshape(-1, width)


def _starts(table: pa.Table, image_ids: pa.ChunkedArray, what: str) -> Ints:
    """Return where each image's rows start, (N + 1,) int64; rows come by image, in the order of `image_ids`."""
    places = pc.index_in(table["image_id"], value_set=pa.concat_arrays([pa.array([], pa.string()), *image_ids.chunks]))
    numbers = pc.fill_null(places, -1).to_numpy().astype(np.int64)
    if (np.diff(numbers, prepend=0) < 0).any():
        raise ConfigError(f"{what} are not those of its images, in their order. Run `pseudoris verify`.")
    return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(image_ids)))]).astype(np.int64)
