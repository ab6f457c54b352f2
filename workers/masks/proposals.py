"""An image's masks as run-length codes, their reduction to objects, and their records.

The proposers (`generator`, `sam2_model`, `ready_masks`), `instances`, and `recipe_runs` of `training/ppt/recipes`
call it. A mask's id is its row before the reduction, so no step may reorder `Proposals`. The rules are three steps,
each on the result of the one before: area, doubles, parts.
Source: method page, section 1, prior `none`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pseudoris.primitives import rle
from pseudoris.schemas.config import ReductionConfig
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import Box, MaskRecord


@dataclass(frozen=True)
class Proposals:
    """The masks of one image in the generator's output order; none is empty.

    Attributes:
        size: (H, W) of the image in pixels.
        counts: N COCO compressed RLE strings.
        boxes_px: N tight boxes (x0, y0, x1, y1), x1 and y1 EXCLUSIVE.
        areas_px: (N,) int64, at least 1.
        predicted_iou: (N,) float32; for masks that were read from files float64, NaN if not stated.
        stability: (N,) in [0, 1], of the same dtype, for the mask before holes and islands were removed.
    """

    size: tuple[int, int]
    counts: tuple[str, ...]
    boxes_px: tuple[Box, ...]
    areas_px: NDArray[np.int64]
    predicted_iou: NDArray[np.float32] | NDArray[np.float64]
    stability: NDArray[np.float32] | NDArray[np.float64]

    @classmethod
    def of_masks(cls, size: tuple[int, int], counts: Sequence[str], iou: Any, stability: Any) -> Self:
        """Return masks with their scores (N,) as proposals in the same order, without those that have no pixels."""
        areas = rle.areas(counts, size)
        filled = np.flatnonzero(areas)
        kept = tuple(counts[row] for row in filled.tolist())
        return cls(size, kept, tuple(rle.boxes(kept, size)), areas[filled], iou[filled], stability[filled])

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.counts)


@dataclass(frozen=True)
class Kept:
    """A proposal that is kept: its row in the generator's order, and what decided so (`table:17`)."""

    row: int
    prior: str = "none"
    copy: int = 0  # 0 for the first instance that chose this proposal, 1 for the second, and so on


def reduce_proposals(proposals: Proposals, config: ReductionConfig) -> list[Kept]:
    """Return the proposals that are separate objects, in the generator's order.

    A double has an IoU above `mask_nms_iou` with a better mask that is kept. A part has at least `min_inside` of its
    pixels inside a larger mask that is kept, and at most `max_part_area` of its area; large masks are decided first, so
    that a part of a dropped mask is kept, and of two equal areas the earlier counts as the whole.
    """
    shares = proposals.areas_px / (proposals.size[0] * proposals.size[1])
    rows = np.flatnonzero((shares >= config.min_area) & (shares <= config.max_area))
    rows = without_doubles(proposals, rows, config.mask_nms_iou)
    rows = rows[np.argsort(-proposals.areas_px[rows], kind="stable")]
    areas, counts = proposals.areas_px[rows], [proposals.counts[row] for row in rows]
    inside = rle.shares_inside(counts, counts, proposals.size)
    is_part = (inside >= config.min_inside) & (areas[:, None] <= config.max_part_area * areas[None, :])
    kept: list[int] = []
    for number in range(len(rows)):
        if not is_part[number, kept].any():
            kept.append(number)
    return [Kept(int(row)) for row in np.sort(rows[kept])]


def without_doubles(proposals: Proposals, rows: NDArray[np.intp], max_iou: float) -> NDArray[np.intp]:
    """Return the proposals of `rows` whose IoU with each better one that is kept is at most `max_iou`, best first."""
    rows = rows[np.argsort(-proposals.predicted_iou[rows], kind="stable")]
    counts = [proposals.counts[row] for row in rows]
    ious = rle.ious(counts, counts, proposals.size)
    kept: list[int] = []
    for number in range(len(rows)):
        if not kept or ious[number, kept].max() <= max_iou:
            kept.append(number)
    return rows[kept]


def mask_records(image_id: str, proposals: Proposals, kept: Iterable[Kept]) -> tuple[MaskRecord, ...]:
    """Return the records of the proposals that are kept.

    A mask's index is its row among all N proposals of its image, plus N for each copy before it. So ids are distinct,
    and depend neither on the other instances nor on their order.
    """
    records = []
    for one in kept:
        row, index = one.row, one.row + one.copy * len(proposals)
        predicted_iou, stability = float(proposals.predicted_iou[row]), float(proposals.stability[row])
        records.append(
            MaskRecord(
                mask_id=mask_id(image_id, index),
                index=index,
                rle_size=proposals.size,
                rle_counts=proposals.counts[row],
                box_xyxy_px=proposals.boxes_px[row],
                area_px=int(proposals.areas_px[row]),
                predicted_iou=None if math.isnan(predicted_iou) else predicted_iou,
                stability_score=None if math.isnan(stability) else stability,
                prior=one.prior,
            )
        )
    return tuple(records)
