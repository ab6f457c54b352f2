"""The plain definition of a crop before resizing, to hold the real one against."""

from __future__ import annotations

import numpy as np


def padded_square(
    region: np.ndarray, *, fill: tuple[int, int, int] = (123, 117, 104), mask: np.ndarray | None = None
) -> np.ndarray:
    """Return (S, S, 3) uint8: the region (h, w, 3), `fill` outside its mask (h, w) and around it, centrally padded."""
    height, width = region.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = fill
    top, left = (side - height) // 2, (side - width) // 2
    inside = square[top : top + height, left : left + width]
    kept = np.ones((height, width), bool) if mask is None else mask
    inside[kept] = region[kept]
    return square
