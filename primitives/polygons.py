"""Traces the borders of a mask, and draws it as polygons that fill to exactly its pixels. For `viewer` and exports.

Filled under the rule `evenodd`, the rings of borders cover exactly the mask's pixels.

Fillers disagree on what a point is. pycocotools fills the area between pixel *corners*; OpenCV's `fillPoly` connects
pixel *centres* and draws the outline. A polygon of one kind, given to the other filler, moves every border. Both fill
by the even-odd rule: a line that is walked there and back cancels, so one polygon holds rings that lie apart. Browsers
fill by non-zero winding; a polygon of corners must fill to the mask by that rule too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

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


# A hole is the point where its bridge ends, and its points from the bridge's start around to that start.
_Hole = tuple[Point, list[Point]]


def corner_polygon(pixels: NDArray[np.bool_]) -> list[Point]:
    """Return one polygon (x, y) of pixel corners, which pycocotools, and non-zero winding, fill to the mask.

    At least one of the pixels (H, W) is set, so it has at least four points; fewer would be a box to pycocotools.
    """
    inside = np.pad(pixels, 1)
    # Holes run in the other direction, with the mask on the same side, so that non-zero winding leaves them open.
    rings = [
        ring if inside[y + 1, x + 1] else [ring[0], *ring[:0:-1]] for ring in mask_rings(pixels) for x, y in ring[:1]
    ]
    start = rings[0][0]
    # From the first ring's start the line goes to each further ring, around it, and back to that start.
    return [*rings[0], *(point for ring in rings[1:] for point in (start, *ring, ring[0]))]


def centre_polygons(pixels: NDArray[np.bool_]) -> list[list[Point]]:
    """Return a polygon (x, y) of pixel centres per part, which `cv2.fillPoly` with `cv2.polylines` fills to the mask.

    From a hole's leftmost point a bridge leads left, over pixels of the mask, to the border that it meets first. At
    least one of the pixels (H, W) is set.
    """
    inside = np.pad(pixels, 1)
    rings = mask_rings(pixels)
    owners = {
        (x, y): number
        for number, ring in enumerate(rings)
        # A bridge is horizontal, so only vertical edges, where it may end, are listed.
        for (x, y0), (_, y1) in zip(ring[1::2], [*ring[2::2], ring[0]], strict=True)
        for y in range(min(y0, y1), max(y0, y1))
    }
    holes: defaultdict[int, list[_Hole]] = defaultdict(list)
    polygons = []
    # Rings are visited from right to left, so that a ring has all its holes: a bridge ends at a ring further left.
    for number in sorted(range(len(rings)), key=lambda each: min(rings[each]), reverse=True):
        x, y = min(rings[number])
        points = _centres(rings[number], inside, holes.pop(number, []))
        if not inside[y + 1, x]:
            polygons.append(points)
            continue
        end = x - int(np.argmin(inside[y + 1, x::-1]))
        first = points.index((x - 1, y))
        holes[owners[end, y]].append(((end, y), [*points[first:], *points[:first], points[first]]))
    return polygons


def _centres(ring: Sequence[Point], inside: NDArray[np.bool_], holes: Sequence[_Hole]) -> list[Point]:
    """Return the centres of the mask's pixels along a ring, with the holes whose bridges end there."""
    centres: list[Point] = []
    for (x0, y), (x, y0), (_, y1) in zip(ring[0::2], ring[1::2], [*ring[2::2], ring[0]], strict=True):
        row = y if inside[y + 1, min(x0, x) + 1] else y - 1
        centres += [(x0, row), (x - 1, row)] if x0 < x else [(x0 - 1, row), (x, row)]
        column = x if inside[min(y0, y1) + 1, x + 1] else x - 1
        first, last = (y0, y1 - 1) if y0 < y1 else (y0 - 1, y1)
        centres.append((column, first))
        ending = [hole for hole in holes if hole[0][0] == x and min(first, last) <= hole[0][1] <= max(first, last)]
        for end, points in sorted(ending, key=lambda hole: hole[0][1], reverse=first > last):
            centres += [end, *points, end]
        centres.append((column, last))
    return [point for point, _ in groupby(centres)]
