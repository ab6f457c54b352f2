"""A pseudo-mask in the decoder's frame, and the points that are drawn around it (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from workers.masks.grids import resized_size


@dataclass(frozen=True, slots=True)
class LabelFrame:
    """The frame of pseudo-masks: that of SAM's decoder.

    Attributes:
        image_size: Side of the square that SAM's image encoder sees, the image's longer side filling it.
        grid: Cells a side of the decoder's mask logits, a divisor of it.
    """

    image_size: int
    grid: int


def points_in_box(
    mask: NDArray[np.bool_], num_points: int, key: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return P̂: points (M, 2) xy in [0, 1] of the image, uniform in the mask's box, and labels (M,), 1 inside, else 0.

    Source: section 3.2.

    Args:
        mask: (H, W) bool, at least one pixel.
        num_points: M.
        key: Decides the draw.
    """
    ys, xs = np.nonzero(mask)
    rng = np.random.Generator(np.random.Philox(key=key))
    low = np.array([xs.min(), ys.min()], np.float64)
    high = np.array([xs.max() + 1, ys.max() + 1], np.float64)
    # Below the box's end, where floating point would round up to it.
    drawn = np.minimum(rng.uniform(low, high, size=(num_points, 2)), high - 1e-6)
    at = np.floor(drawn).astype(np.int64)
    labels = mask[at[:, 1], at[:, 0]].astype(np.float32)
    return (drawn / np.array([mask.shape[1], mask.shape[0]])).astype(np.float32), labels


def masks_in_frame(masks: torch.Tensor, frame: LabelFrame) -> torch.Tensor:
    """Return how much of each cell of the decoder's grid the masks cover, (E, grid, grid) float32, of (E, H, W) bool.

    The image's longer side fills the square, from its top left corner, and the rest is padding, as SAM pads.
    """
    size = resized_size((masks.shape[1], masks.shape[2]), frame.image_size)
    inside = F.interpolate(masks[:, None].float(), size, mode="area")
    padding = (0, frame.image_size - size[1], 0, frame.image_size - size[0])
    square = F.pad(inside, padding)
    return F.adaptive_avg_pool2d(square, frame.grid)[:, 0]
