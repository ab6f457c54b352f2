"""From SAM's over-segmented proposals to objects, where no instance prior exists.

Three steps, each on what the one before left: area, doubles, parts. All work on run-length codes.
Source: method page, section 1, prior `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.config import ReductionConfig
from workers.masks import rle
from workers.masks.proposals import Proposals

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """A proposal that stays: its row in the generator's order, and where the decision came from (`table:17`)."""

    row: int
    prior: str = "none"


def reduce_proposals(proposals: Proposals, config: ReductionConfig) -> list[Kept]:
    """Return the proposals that are objects of their own, in the generator's order."""
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
    """Return the rows whose IoU with every better one that stays is at most `max_iou`, in the same order.

    Args:
        rows: (N,), best first.
        ious: (N, N), in the order of `rows`.
        max_iou: Inclusive.
    """
    kept: list[int] = []
    for candidate in range(len(rows)):
        if not kept or ious[candidate, kept].max() <= max_iou:
            kept.append(candidate)
    return rows[kept]


def without_parts(rows: Rows, proposals: Proposals, config: ReductionConfig) -> Rows:
    """Return the rows that are no part of a larger mask that stays, from large to small.

    A part has at least `min_inside` of its pixels inside the other and at most `max_part_area` of its area.
    Large masks are judged first, so what only a dropped mask contains stays; among equal areas the earlier
    row is taken for the whole.
    """
    by_area = rows[np.argsort(-proposals.areas_px[rows], kind="stable")]
    areas = proposals.areas_px[by_area]
    chosen = _chosen(proposals, by_area)
    inside = rle.shares_inside(chosen, chosen, proposals.size)
    is_part = (inside >= config.min_inside) & (areas[:, None] <= config.max_part_area * areas[None, :])
    kept: list[int] = []
    for candidate in range(len(by_area)):
        if not is_part[candidate, kept].any():
            kept.append(candidate)
    return by_area[kept]


def _chosen(proposals: Proposals, rows: Rows) -> Sequence[str]:
    return [proposals.counts[row] for row in rows]


def _chosen_ious(proposals: Proposals, rows: Rows) -> NDArray[np.float64]:
    chosen = _chosen(proposals, rows)
    return rle.ious(chosen, chosen, proposals.size)
