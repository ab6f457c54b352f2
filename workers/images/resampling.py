"""Padding to a square and antialiased bilinear resizing in one, without the square.

A strip of 1 x 60,000 pixels would ask for a square of 3.6 gigapixels. But resizing is linear, one axis at a
time, and its weights sum to one: of a picture's deviation from the colour that it is padded with, the padding
contributes nothing. So the long axis is resized as it is, a band of rows after the other, and along the short
one only the weights of rows that exist are multiplied.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

# Pixels that are floats at once; bounds memory and decides no result.
_BAND_PIXELS: Final = 2**18


def resize_padded(
    region: np.ndarray, size: int, *, fill_rgb: tuple[int, int, int], mask: np.ndarray | None = None
) -> torch.Tensor:
    """Return (3, size, size) float32 RGB in [0, 1]: `region` padded centrally to a square with `fill_rgb`, resized.

    Equal, up to rounding, to torchvision's `Resize(antialias=True)` of the square in float32. Of an odd rest of
    padding the last row or column gets one pixel more than the first. Takes 12 bytes for each of `size` times
    the shorter side, and as many for a row of the longer one.

    Args:
        region: (h, w, 3) uint8 RGB, h and w at least 1.
        size: Side of the result in pixels.
        fill_rgb: Colour of the padding, in [0, 255].
        mask: (h, w) bool; pixels outside it become `fill_rgb`. None masks nothing.
    """
    is_tall = region.shape[0] > region.shape[1]
    if is_tall:
        region = region.transpose(1, 0, 2)
        mask = None if mask is None else mask.T
    fill = (torch.tensor(fill_rgb, dtype=torch.float32) / 255).view(3, 1, 1)
    rows = _resize_long_axis(region, size, fill=fill, mask=mask)
    weights = torch.from_numpy(_short_axis_weights(region.shape[0], region.shape[1], size))
    square = torch.baddbmm(fill, weights.expand(3, -1, -1), rows)
    return square.transpose(1, 2) if is_tall else square


def _resize_long_axis(region: np.ndarray, size: int, *, fill: torch.Tensor, mask: np.ndarray | None) -> torch.Tensor:
    """Return the region's deviation from the fill with its rows resized, (3, h, size) float32."""
    height, width = region.shape[:2]
    resized = torch.empty(3, height, size)
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        band = slice(top, top + step)
        # The interpolation's rows must lie together: of a turned region they do not.
        planes = torch.from_numpy(np.ascontiguousarray(region[band].transpose(2, 0, 1)))
        deviation = planes.to(torch.float32).div_(255).sub_(fill)
        if mask is not None:
            deviation *= torch.from_numpy(np.ascontiguousarray(mask[band]))
        shape = (deviation.shape[1], size)
        resized[:, band] = F.interpolate(
            deviation[None], size=shape, mode="bilinear", align_corners=False, antialias=True
        )[0]
    return resized


def _short_axis_weights(height: int, side: int, size: int) -> np.ndarray:
    """Return (size, height) float32: what the rows of a strip weigh when the square of `side` is resized to `size`.

    The triangle filter of antialiased bilinear resizing, as wide as an output pixel to each side, and at least
    as an input pixel; what the square's border cuts off is left out of the sum.
    """
    reach = max(side / size, 1.0)
    centres = (np.arange(size) + 0.5) * (side / size)
    rows = (side - height) // 2 + np.arange(height) + 0.5
    weights = np.maximum(1 - np.abs(rows - centres[:, None]) / reach, 0)
    normalised: np.ndarray = (weights / _triangle_sums(centres, side, reach)[:, None]).astype(np.float32)
    return normalised


def _triangle_sums(centres: np.ndarray, side: int, reach: float) -> np.ndarray:
    """Return the sum of every output's triangle over all pixels of the square, in closed form, (size,) float64."""
    # Pixels [first, middle) lie on the rising flank, [middle, last) on the falling one.
    first = np.maximum(np.floor(centres - reach + 0.5), 0)
    middle = np.floor(centres + 0.5)
    last = np.minimum(np.floor(centres + reach + 0.5), side)
    rising = (middle - first) * (1 - (centres - (first + middle) / 2) / reach)
    sums: np.ndarray = rising + (last - middle) * (1 - ((middle + last) / 2 - centres) / reach)
    return sums
