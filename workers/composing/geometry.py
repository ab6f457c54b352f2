"""Where the masks of an image lie to each other, as far as nobody doubts it; distances are shares of its sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from schemas.keeping import Floats
from schemas.shard import MaskRecord
from workers.masks.rle import Int64Array, runs

Side = Literal["left", "right", "top", "bottom"]
SIDES: Final[tuple[Side, ...]] = ("left", "right", "top", "bottom")
# A side of the picture is its outer third.
_THIRD: Final = 1 / 3
# Steps across, at most, for a step to a side that somebody still calls one to that side.
_LENIENT_SLANT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """The centre of a mask's pixels: x and y as shares of the image's width and height, and the image's height / width.

    Shares along each axis say where in the picture something is; `aspect` makes the two comparable.
    """

    x: float
    y: float
    aspect: float = 1.0

    def along(self, side: Side) -> float:
        """Return how far it lies toward a side, as a share of that axis: larger is further."""
        return {"left": -self.x, "right": self.x, "top": -self.y, "bottom": self.y}[side]

    def step(self, side: Side, anchor: Place) -> tuple[float, float]:
        """Return the way from an anchor: toward the side, and across (never negative), both in image widths."""
        dx, dy = self.x - anchor.x, (self.y - anchor.y) * self.aspect
        toward = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}[side]
        return toward, abs(dy if side in ("left", "right") else dx)


@dataclass(frozen=True, slots=True)
class Margins:
    """What is too close to call: a gap between centres as a share of the side, and a slant across in steps."""

    min_gap: float
    max_slant: float


def place_of(mask: MaskRecord) -> Place:
    """Return where a mask lies."""
    height, width = mask.rle_size
    # Ends of runs, counted in pixels down the columns; every second run is the mask's.
    ends = np.cumsum(runs(mask.rle_counts))
    columns, rows = _coordinate_sums(ends, height)
    num_runs = len(ends) // 2
    signs = np.tile([-1, 1], num_runs)
    x, y = (float((sums[: 2 * num_runs] * signs).sum()) / mask.area_px + 0.5 for sums in (columns, rows))
    return Place(x / width, y / height, height / width)


def _coordinate_sums(ends: Int64Array, height: int) -> tuple[Int64Array, Int64Array]:
    """The sums of the columns and of the rows of all pixels before each of `ends`, without a step a pixel."""
    column, row = np.divmod(ends, height)
    columns = height * (column * (column - 1) // 2) + column * row
    rows = column * (height * (height - 1) // 2) + row * (row - 1) // 2
    return columns, rows


def is_end(side: Side, target: int, row: Sequence[int], places: Mapping[int, Place], margins: Margins) -> bool:
    """Return whether a mask of a row surely is the one furthest to a side."""
    others = [places[mask].along(side) for mask in row if mask != target]
    return bool(others) and places[target].along(side) >= max(others) + margins.min_gap


def rank(side: Side, target: int, row: Sequence[int], places: Mapping[int, Place], margins: Margins) -> int | None:
    """Return a mask's place in a row, counted from a side from 1; None where another one nearly shares it."""
    own = places[target].along(side)
    others = [places[mask].along(side) for mask in row if mask != target]
    if any(abs(other - own) < margins.min_gap for other in others):
        return None
    return 1 + sum(other > own for other in others)


def is_alone_at(side: Side, target: int, row: Sequence[int], places: Mapping[int, Place], margins: Margins) -> bool:
    """Return whether a mask surely lies in the picture's third on a side, and no other one of the row maybe does."""
    inner = _THIRD - margins.min_gap / 2
    outer = _THIRD + margins.min_gap / 2
    return _depth(side, places[target]) <= inner and all(
        _depth(side, places[mask]) >= outer for mask in row if mask != target
    )


def surely_lies(side: Side, item: Place, anchor: Place, margins: Margins) -> bool:
    """Return whether nobody doubts that a mask lies on a side of another one."""
    toward, across = item.step(side, anchor)
    return toward >= margins.min_gap and across <= margins.max_slant * toward


def maybe_lies(side: Side, item: Place, anchor: Place, margins: Margins) -> bool:
    """Return whether somebody might say that a mask lies on a side of another one."""
    toward, across = item.step(side, anchor)
    # What a lenient listener still grants, and half a gap for centres that lie not quite where the masks have them.
    slack = margins.min_gap / 2
    return toward > -slack and across <= _LENIENT_SLANT * (toward + slack) + slack


def doubtless_lead(leads: Floats, margins: Margins) -> Floats:
    """Return how likely nobody doubts who is ahead by so much of the axis; half at three quarters of `min_gap`."""
    return _ramp(leads - 0.75 * margins.min_gap, 0.15 * margins.min_gap)


def inside_third(side: Side, place: Place, margins: Margins) -> float:
    """Return how likely a mask is said to lie in the picture's third on a side; half on its line."""
    return float(_ramp(np.float64(_THIRD - _depth(side, place)), 0.125 * margins.min_gap))


def _ramp(distance: Floats | np.float64, width: float) -> Floats:
    """0 far below 0, 1 far above, in a few widths; a step without a width."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(distance / max(width, 1e-9), -500.0, 500.0))))


def _depth(side: Side, place: Place) -> float:
    """How far from a side's edge, as a share of that axis."""
    return 1 - place.along(side) if side in ("right", "bottom") else -place.along(side)
