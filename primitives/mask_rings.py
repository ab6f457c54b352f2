"""Traces the borders of a mask along pixel corners. Called by `viewer/outlines.py` and `primitives/polygons.py`.

Filled under the rule `evenodd`, the rings cover exactly the mask's pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def mask_rings(pixels: NDArray[np.bool_]) -> list[list[Point]]:
    """Return the borders of a mask (H, W) bool as rings of corners (x, y), from (0, 0) to (W, H).

    Each ring goes first along a row, then along a column.
    """
    inside = np.pad(pixels, 1)
    changes = inside[:-1] ^ inside[1:]
    is_corner = changes[:, :-1] ^ changes[:, 1:]
    # Where two mask pixels touch only at a corner, two borders pass through the point, so it is used twice.
    is_double = changes[:, :-1] & changes[:, 1:] & (inside[:-1, :-1] ^ inside[:-1, 1:])
    rows, columns = np.nonzero(is_corner | is_double)
    counts = 1 + is_double[rows, columns]
    rows, columns = rows.repeat(counts), columns.repeat(counts)
    # Sorted by column, points 1 and 2 are the ends of one vertical edge, points 3 and 4 of the next edge, and so on.
    down = np.lexsort((rows, columns))
    below = np.empty_like(down)
    below[down[0::2]], below[down[1::2]] = down[1::2], down[0::2]
    points, below = list(zip(columns.tolist(), rows.tolist(), strict=True)), below.tolist()
    rings, is_left = [], [True] * len(points)
    for first in range(0, len(points), 2):
        ring, corner = [], first
        while is_left[corner]:
            along = corner ^ 1
            is_left[corner] = is_left[along] = False
            ring += [points[corner], points[along]]
            corner = below[along]
        if ring:
            rings.append(ring)
    return rings
