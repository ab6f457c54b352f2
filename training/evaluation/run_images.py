"""A run's tables, one image at a time, without pixels. Called by `calibration`, `evaluation` and `ppt`.

Images come in the order of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.tables import STATUS_QUARANTINED
from pseudoris.store.tables.open_run import CommittedShard, JoinedTables
from pseudoris.training.evaluation.truth import DECODERS, CandidateTable, ImageTruth, Truth

_IMAGE_COLUMNS: Final = ("key", "height", "width", "status")
_MASK_COLUMNS: Final = ("mask_id", "segmentation", "area_px", "box_xyxy_px")
CANDIDATE_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source")


@dataclass(frozen=True, slots=True, eq=False)
class CommittedImage:
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

    @classmethod
    def of(cls, joined: JoinedTables, place: int) -> Self:
        """Return an image of `joined_tables`."""
        row, masks, said = joined.image(place)
        counts = [each["counts"] for each in masks["segmentation"].to_pylist()]
        size, is_quarantined = (row["height"], row["width"]), row["status"] == STATUS_QUARANTINED
        return cls(row["image_id"], row["key"], is_quarantined, size, masks["mask_id"].to_pylist(), counts, said)

    @property
    def candidates(self) -> CandidateTable:
        """Its expressions; read with `CANDIDATE_COLUMNS`."""
        columns = {name: self.expressions[name].to_pylist() for name in ("text", "target_mask_ids", "kind", "source")}
        # Draws are counted by decoder. Each of `DECODERS` has a column, and all other decoders share the last one.
        samples, width = self.expressions["samples"], len(DECODERS) + 1
        lists = pa.concat_arrays([pa.array([], samples.type), *samples.chunks])
        names = pc.struct_field(pc.list_flatten(lists), "decoder")
        places = pc.fill_null(pc.index_in(names, value_set=pa.array(DECODERS)), len(DECODERS)).to_numpy()
        cells = pc.list_parent_indices(lists).to_numpy() * width + places
        return CandidateTable(
            self.size,
            self.mask_ids,
            self.mask_counts,
            texts=columns["text"],
            targets=columns["target_mask_ids"],
            draws=np.bincount(cells, minlength=len(lists) * width).astype(np.int64).reshape(-1, width),
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


def committed_images(shard: CommittedShard, *expression_columns: str) -> Iterator[CommittedImage]:
    """Yield the images of a shard in plan order, with columns of their expressions."""
    return images_of(joined_tables(shard, *expression_columns))


def images_of(joined: JoinedTables) -> Iterator[CommittedImage]:
    """Yield all images of `joined_tables`."""
    return (CommittedImage.of(joined, place) for place in range(joined.images.num_rows))


def joined_tables(shard: CommittedShard, *expression_columns: str, images: Sequence[str] = ()) -> JoinedTables:
    """Return what `CommittedImage.of` reads: a shard's tables, with columns of its expressions.

    `images` are more columns of its images.
    """
    return shard.joined((*_IMAGE_COLUMNS, *images), _MASK_COLUMNS, expression_columns, with_quarantined=True)
