"""Removing speckles: small holes are filled, small islands dropped.

Source: segment-anything 1.0, utils/amg.py, remove_small_regions; the labelling is scipy's instead of OpenCV's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)

Mask = NDArray[np.bool_]


def remove_small_regions(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    """Return the mask without holes and islands below `min_area_px`, and whether anything changed.

    Regions are joined over edges and corners. A hole is any region of background, also one at the image's
    border. Where all islands are small the largest stays, the first in reading order among equals, so a
    mask with pixels never becomes empty.

    Args:
        mask: (H, W) bool; left as it is.
        min_area_px: Regions of at least this many pixels stay.
    """
    filled, has_filled = _fill_holes(mask, min_area_px)
    cleaned, has_dropped = _drop_islands(filled, min_area_px)
    return cleaned, has_filled or has_dropped


def _fill_holes(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    labels, sizes = _regions(~mask)
    is_small = sizes < min_area_px
    if not is_small.any():
        return mask, False
    return np.concatenate([[True], is_small])[labels], True


def _drop_islands(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    labels, sizes = _regions(mask)
    is_large = sizes >= min_area_px
    if is_large.all():
        return mask, False
    if not is_large.any():
        is_large[np.argmax(sizes)] = True
    return np.concatenate([[False], is_large])[labels], True


def _regions(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return labels (H, W), 0 outside the mask, and the pixels of the regions 1, 2 and so on."""
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return labels, np.bincount(labels.ravel())[1:]
