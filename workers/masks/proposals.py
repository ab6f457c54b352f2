"""The masks of one image, run-length encoded: as the generator returns them, and reduced to objects by rules.

Three steps, each on the result of the one before: area, doubles, parts. All of them work on run-length codes.
Source: method page, section 1, prior `none`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pseudoris.schemas.config import ReductionConfig
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import Box, MaskRecord
from pseudoris.workers.masks import rle


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

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.counts)


Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """A proposal that is kept.

    Attributes:
        row: Its row in the generator's order.
        prior: The source of the decision (`table:17`).
        copy: 0, or n for the n-th further instance that chose the same proposal.
    """

    row: int
    prior: str = "none"
    copy: int = 0


def reduce_proposals(proposals: Proposals, config: ReductionConfig) -> list[Kept]:
    """Return the proposals that are separate objects, in the generator's order."""
    rows = within_area(proposals.areas_px, proposals.size, config)
    rows = rows[np.argsort(-proposals.predicted_iou[rows], kind="stable")]
    rows = without_doubles(rows, _chosen_ious(proposals, rows), config.mask_nms_iou)
    rows = without_parts(rows, proposals, config)
    return [Kept(int(row)) for row in np.sort(rows)]


def within_area(areas_px: Rows, size: tuple[int, int], config: ReductionConfig) -> Rows:
    """Return the rows of masks whose share of the image's area lies in [min_area, max_area]."""
    shares = areas_px / (size[0] * size[1])
    return np.flatnonzero((shares >= config.min_area) & (shares <= config.max_area))


def without_doubles(rows: Rows, ious: NDArray[np.float64], max_iou: float) -> Rows:
    """Return the rows whose IoU with every better row that is kept is at most `max_iou`, in the same order.

    Args:
        rows: (N,), best first.
        ious: (N, N), in the order of `rows`.
        max_iou: Inclusive.
    """
    kept: list[int] = []
    for number in range(len(rows)):
        if not kept or ious[number, kept].max() <= max_iou:
            kept.append(number)
    return rows[kept]


def without_parts(rows: Rows, proposals: Proposals, config: ReductionConfig) -> Rows:
    """Return the rows that are not a part of a larger mask that is kept, from large to small.

    A part has at least `min_inside` of its pixels inside the other mask, and at most `max_part_area` of its area. Large
    masks are decided first, so that a part of a dropped mask is kept. Of two equal areas the earlier row counts as the
    whole.
    """
    by_area = rows[np.argsort(-proposals.areas_px[rows], kind="stable")]
    areas = proposals.areas_px[by_area]
    chosen = _chosen(proposals, by_area)
    inside = rle.shares_inside(chosen, chosen, proposals.size)
    is_part = (inside >= config.min_inside) & (areas[:, None] <= config.max_part_area * areas[None, :])
    kept: list[int] = []
    for number in range(len(by_area)):
        if not is_part[number, kept].any():
            kept.append(number)
    return by_area[kept]


def _chosen(proposals: Proposals, rows: Rows) -> Sequence[str]:
    return [proposals.counts[row] for row in rows]


def _chosen_ious(proposals: Proposals, rows: Rows) -> NDArray[np.float64]:
    chosen = _chosen(proposals, rows)
    return rle.ious(chosen, chosen, proposals.size)


def mask_records(image_id: str, proposals: Proposals, kept: Iterable[Kept]) -> tuple[MaskRecord, ...]:
    """Return the records of the proposals that are kept.

    A mask's index is its row among all N proposals of its image, plus N for each copy before it. So ids are distinct,
    and depend neither on the other instances nor on their order.
    """
    return tuple(_record(image_id, proposals, each) for each in kept)


def _record(image_id: str, proposals: Proposals, kept: Kept) -> MaskRecord:
    row = kept.row
    index = row + kept.copy * len(proposals)
    return MaskRecord(
        mask_id=mask_id(image_id, index),
        index=index,
        rle_size=proposals.size,
        rle_counts=proposals.counts[row],
        box_xyxy_px=proposals.boxes_px[row],
        area_px=int(proposals.areas_px[row]),
        predicted_iou=_known(proposals.predicted_iou[row]),
        stability_score=_known(proposals.stability[row]),
        prior=kept.prior,
    )


def _known(score: np.floating[Any]) -> float | None:
    return None if np.isnan(score) else float(score)
