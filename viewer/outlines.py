"""Draws a mask as a crisp SVG path of some hundred bytes. Called by `gallery_page`, `audit/judging_page` and examples.

Paths and labels are in the page's units: the longer side of a picture has `FRAME`, at any number of pixels, so that
strokes and labels keep their size. A path stays within a pixel of its mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from pseudoris.primitives.polygons import Point, mask_rings
from pseudoris.primitives.run_lengths import decode_mask

FRAME: Final = 512
# Masks with more pixels are refused, because decoding takes a byte per pixel. It is ten times an image's default limit.
_MAX_PIXELS: Final = 2**30
# An outline may be simplified by this distance. It removes the steps of a slanted edge, which are up to a pixel high.
_TOLERANCE_PX: Final = 1.0
_MAX_ENLARGEMENT: Final = 4.0
# The steps of an enlarged mask are blurred with this standard deviation, in image pixels.
_SMOOTHING_PX: Final = 0.75
_MIN_LOOP_AREA_PX: Final = 4.0
_MIN_LABEL_RADIUS: Final = 11.0
_LABEL_HEIGHT: Final = 16.0
# A digit of the page's font is this wide: 17 px, bold, with half of the dark border on each side.
_DIGIT_WIDTH: Final = 11.0
_LABEL_GAP: Final = 2.0
# A label may move by one of these steps (dx, dy), which are sorted by distance.
_SHIFTS: Final = sorted(
    ((dx * 6.0, dy * 6.0) for dx in range(-12, 13) for dy in range(-12, 13)), key=lambda shift: math.hypot(*shift)
)

Bools = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outline:
    """A mask in the frame of its picture.

    Attributes:
        path: SVG path data, closed loops for the fill rule `evenodd`.
        label_xy: Position of its number: deep inside the mask, or above a mask that is too small.
    """

    path: str
    label_xy: tuple[float, float]


def frame_size(height: int, width: int) -> tuple[float, float]:
    """Return (height, width) of a picture in the page's units, the longer side `FRAME`."""
    scale = FRAME / max(height, width, 1)
    return height * scale, width * scale


def outline_of(counts: str, size: tuple[int, int]) -> Outline:
    """Return the outline of a mask in COCO compressed RLE; a ValueError if it is not of `size` (height, width)."""
    height, width = size
    if min(size) < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"The mask has {height} x {width} pixels. 1 to {_MAX_PIXELS:,} are allowed.")
    full = decode_mask(counts, height, width)
    # The longer side gets near `FRAME` pixels. Enlarging makes a curve of a small mask's staircase; more of it would
    # make a blob of every pixel.
    factor = min(FRAME / max(height, width), _MAX_ENLARGEMENT)
    resized = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.BOX if factor <= 1 else Image.Resampling.BILINEAR
    coverage = np.asarray(Image.fromarray(full.astype(np.uint8) * 255).resize(resized, method), dtype=np.float32)
    if factor > 1:
        coverage = ndimage.gaussian_filter(coverage, _SMOOTHING_PX * factor, mode="nearest", truncate=3)
    # The maximum is the threshold for a mask that would otherwise vanish, because no pixel is covered by half.
    mask = np.asarray(coverage >= min(127.5, float(coverage.max())))
    # Each axis has its own scale, because resized sides are rounded to whole pixels.
    frame_height, frame_width = frame_size(height, width)
    scale = np.array([frame_width / mask.shape[1], frame_height / mask.shape[0]])
    loops = [_simplified(loop) for loop in mask_rings(mask)]
    areas = [abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 for x, y in (loop.T for loop in loops)]
    large = [loop for loop, area in zip(loops, areas, strict=True) if area >= _MIN_LOOP_AREA_PX]
    drawn = ("L".join(f"{x:.4g} {y:.4g}" for x, y in (loop * scale).tolist()) for loop in large or loops)
    return Outline("".join(f"M{points}Z" for points in drawn), _label(mask, scale))


def spread_labels(
    labels: Sequence[tuple[str, tuple[float, float]]], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return where the labels of one picture stand so that none covers another.

    In order, each label stays in its place, or moves to the nearest free one. It also stays if no place near is free.
    `labels` are texts with their wanted centres (x, y); `size` is that of the picture, (height, width).
    """
    placed: list[tuple[float, float, float]] = []
    tall = _LABEL_HEIGHT + _LABEL_GAP
    for text, (x, y) in labels:
        half = _DIGIT_WIDTH * len(text) / 2 + _LABEL_GAP
        near = ((x + dx, y + dy) for dx, dy in _SHIFTS)
        inside = (at for at in near if half <= at[0] <= size[1] - half and half <= at[1] <= size[0] - half)
        places = itertools.chain([(x, y)], inside)
        free = (
            (to_x, to_y)
            for to_x, to_y in places
            if all(abs(to_x - px) >= half + wide or abs(to_y - py) >= tall for px, py, wide in placed)
        )
        placed.append((*next(free, (x, y)), half))
    return [(round(x, 1), round(y, 1)) for x, y, _ in placed]


def _simplified(ring: Sequence[Point]) -> Points:
    """Apply Ramer-Douglas-Peucker to a closed loop, split at its first point and the one farthest from it."""
    loop = np.array(ring, dtype=np.float64)
    if len(loop) <= 4:
        return loop
    far = int(((loop - loop[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    keep = np.zeros(len(closed), dtype=np.bool_)
    keep[[0, far, -1]] = True
    pending = [(0, far), (far, len(closed) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        (x, y), offset = closed[last] - closed[first], closed[first + 1 : last] - closed[first]
        # Distances are to the line through both ends, or to the point if both ends are the same point.
        across = offset[:, 0] * y - offset[:, 1] * x
        distances = np.abs(across) / np.hypot(x, y) if x or y else np.hypot(*offset.T)
        worst = int(distances.argmax())
        if distances[worst] > _TOLERANCE_PX:
            middle = first + 1 + worst
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    return np.asarray(closed[:-1][keep[:-1]])


def _label(mask: Bools, scale: Points) -> tuple[float, float]:
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    centre_x, centre_y = float((x + 0.5) * scale[0]), float((y + 0.5) * scale[1])
    radius = float(depth.max()) * float(scale.min())
    if radius < _MIN_LABEL_RADIUS:
        above = centre_y - radius - _LABEL_HEIGHT / 2
        centre_y = above if above >= _LABEL_HEIGHT / 2 else centre_y + radius + _LABEL_HEIGHT / 2
    return round(centre_x, 1), round(centre_y, 1)
