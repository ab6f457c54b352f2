"""Where SAM looks: grids of point prompts, layers of overlapping crops, and the size it sees them at.

Source: segment-anything 1.0, utils/amg.py and utils/transforms.py.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from schemas.config import MasksConfig
from schemas.errors import ConfigError
from schemas.shard import Box

PointGrid = NDArray[np.float64]


def point_grid(points_per_side: int) -> PointGrid:
    """Return the centres of a square grid's cells, (points², 2) float64 as x, y in (0, 1), row by row."""
    half = 1 / (2 * points_per_side)
    side = np.linspace(half, 1 - half, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def layer_grids(config: MasksConfig) -> tuple[PointGrid, ...]:
    """Return one point grid for the whole image and one for each layer of crops, in the frame of a crop.

    Raises:
        ConfigError: The downscale factor leaves a layer without points.
    """
    factor = config.crop_n_points_downscale_factor
    sides = [int(config.points_per_side / factor**layer) for layer in range(config.crop_n_layers + 1)]
    if 0 in sides:
        raise ConfigError(
            f"masks.crop_n_points_downscale_factor={factor} leaves crop layer {sides.index(0)} without points "
            f"(masks.points_per_side={config.points_per_side}): lower the factor or masks.crop_n_layers"
        )
    return tuple(point_grid(side) for side in sides)


def crop_boxes(size: tuple[int, int], config: MasksConfig) -> list[tuple[Box, int]]:
    """Return the crops of an image (H, W) with their layers: the whole image, then layer by layer, column by column.

    Layer l has (2^l)² crops. On an image of a few pixels some of them hold no pixel; those are left out.

    Returns:
        Pairs of a box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, and its layer.
    """
    height, width = size
    crops: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, config.crop_n_layers + 1):
        num_crops = 2**layer
        overlap = int(config.crop_overlap_ratio * min(height, width) * (2 / num_crops))
        x_spans = _spans(width, num_crops, overlap)
        y_spans = _spans(height, num_crops, overlap)
        crops.extend(((x0, y0, x1, y1), layer) for (x0, x1), (y0, y1) in product(x_spans, y_spans))
    return crops


def _spans(length: int, num_crops: int, overlap: int) -> list[tuple[int, int]]:
    span = math.ceil((overlap * (num_crops - 1) + length) / num_crops)
    starts = [(span - overlap) * number for number in range(num_crops)]
    return [(start, min(start + span, length)) for start in starts if start < length]


def resized_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Return the (H, W) of an image whose long side becomes `long_side`, each side at least one pixel.

    Beyond a ratio of 2 · `long_side` SAM rounds the short side to 0 and fails; here it stays 1.
    """
    height, width = size
    scale = long_side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
