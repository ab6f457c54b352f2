"""Run lengths of a mask, and a crop by its definition, in the plainest way."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.workers.crops.crops import FILL_RGB


def runs_of(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths of a mask (H, W) bool, column by column, background first, in the plainest way."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]]))


def plain_crop(
    region: NDArray[np.uint8], size: int, *, mask: NDArray[np.bool_] | None = None, has_antialiasing: bool = True
) -> torch.Tensor:
    """Return one crop by its definition, (3, size, size) float32 RGB in [0, 1], before normalisation.

    `region` (h, w, 3) uint8 RGB is the crop's box, `mask` (h, w) the mask in it; None for a context crop.
    """
    square = torch.from_numpy(padded_square(region, mask=mask)).permute(2, 0, 1)[None] / 255
    return F.interpolate(square, (size, size), mode="bilinear", antialias=has_antialiasing)[0]


def padded_square(region: NDArray[np.uint8], *, mask: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return (S, S, 3) uint8: a region (h, w, 3), filled outside its mask (h, w) and around it, centrally padded."""
    height, width = region.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), FILL_RGB, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    kept = np.ones((height, width), np.bool_) if mask is None else mask
    square[top : top + height, left : left + width][kept] = region[kept]
    return square
