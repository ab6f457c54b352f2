"""The plain definition of a crop, one at a time, to hold the batched one against."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms import v2

FILL_RGB = (123, 117, 104)


def padded_square(
    region: np.ndarray, *, fill: tuple[int, int, int] = FILL_RGB, mask: np.ndarray | None = None
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


def resized(region: np.ndarray, size: int, *, mask: np.ndarray | None = None) -> torch.Tensor:
    """Return (3, size, size) float32 in [0, 1]: the square of `padded_square`, resized as torchvision does."""
    square = torch.from_numpy(padded_square(region, mask=mask)).permute(2, 0, 1)
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=True)])(square)


def runs_of(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths of a mask (H, W) bool, column by column, background first, in the plainest way."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]]))
