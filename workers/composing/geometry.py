"""Where the masks of an image lie relative to each other. Distances are shares of the image's sides.

Tests that return a bool keep a margin: they are true only if no viewer would doubt them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from pseudoris.schemas.keep_rule import Floats
from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.schemas.shard import MaskRecord
from pseudoris.workers.masks.rle import Int64Array

Side = Literal["left", "right", "top", "bottom"]
SIDES: Final[tuple[Side, ...]] = ("left", "right", "top", "bottom")
# A side of the picture is its outer third.
_THIRD: Final = 1 / 3
# Two centres closer than this share of the image's side have no order: neither counts as further left.
_MIN_GAP: Final = 0.08
# Largest sideways offset, as a multiple of the distance toward the named side; 1 would be 45 degrees.
_MAX_SLANT: Final = 0.8
# The largest slant (steps across for each step toward a side) that some viewer would still call that side.
_LENIENT_SLANT: Final = 2.0


@dataclass(frozen=True, slots=True)
class MaskPosition:
    """The centre of a mask's pixels: x and y as shares of the image's width and height, and the image's height / width.

    Shares along each axis say where in the picture something is; `aspect` makes the two axes comparable.
    """

    x: float
    y: float
    aspect: float = 1.0

    def along(self, side: Side) -> float:
        """Return how far it is toward a side, as a share of that axis: larger is further."""
        return {"left": -self.x, "right": self.x, "top": -self.y, "bottom": self.y}[side]

    def step(self, side: Side, anchor: MaskPosition) -> tuple[float, float]:
        """Return the way from an anchor: toward the side, and across (never negative), both in image widths."""
        dx, dy = self.x - anchor.x, (self.y - anchor.y) * self.aspect
        toward = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}[side]
        return toward, abs(dy if side in ("left", "right") else dx)


def position_of(mask: MaskRecord) -> MaskPosition:
    """Return the position of a mask's pixels."""
    height, width = mask.rle_size
    # Ends of runs, in pixels counted column by column; every second run is part of the mask.
    ends = np.cumsum(decode_runs(mask.rle_counts))
    columns, rows = _coordinate_sums(ends, height)
    num_runs = len(ends) // 2
    signs = np.tile([-1, 1], num_runs)
    x, y = (float((sums[: 2 * num_runs] * signs).sum()) / mask.area_px + 0.5 for sums in (columns, rows))
    return MaskPosition(x / width, y / height, height / width)


def _coordinate_sums(ends: Int64Array, height: int) -> tuple[Int64Array, Int64Array]:
    """The sums of column and of row numbers over all pixels before each of `ends`, without a loop over pixels."""
    column, row = np.divmod(ends, height)
    columns = height * (column * (column - 1) // 2) + column * row
    rows = column * (height * (height - 1) // 2) + row * (row - 1) // 2
    return columns, rows


def surely_lies(side: Side, item: MaskPosition, anchor: MaskPosition) -> bool:
    """Return whether a mask is surely on a side of another one."""
    toward, across = item.step(side, anchor)
    return toward >= _MIN_GAP and across <= _MAX_SLANT * toward


def maybe_lies(side: Side, item: MaskPosition, anchor: MaskPosition) -> bool:
    """Return whether some viewer may say that a mask is on a side of another one."""
    toward, across = item.step(side, anchor)
    # A lenient viewer's slant, and half the gap, because a mask's centre may differ from its object's.
    slack = _MIN_GAP / 2
    return toward > -slack and across <= _LENIENT_SLANT * (toward + slack) + slack


def doubtless_lead(leads: Floats) -> Floats:
    """Return the probability that a lead is beyond doubt; `leads` are shares of the axis. 0.5 at 0.75 of `_MIN_GAP`."""
    return _ramp(leads - 0.75 * _MIN_GAP, 0.15 * _MIN_GAP)


def inside_third(side: Side, position: MaskPosition) -> float:
    """Return the probability that a viewer places a mask in the image's third on a side; 0.5 on the third's border."""
    along = position.along(side)
    depth = 1 - along if side in ("right", "bottom") else -along
    return float(_ramp(np.float64(_THIRD - depth), 0.125 * _MIN_GAP))


def _ramp(distance: Floats | np.float64, width: float) -> Floats:
    """Rises from 0 far below 0 to 1 far above, within a few widths; a step if the width is 0."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(distance / max(width, 1e-9), -500.0, 500.0))))
