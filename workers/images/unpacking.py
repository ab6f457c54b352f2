"""Masks from run lengths to pixels, all of them in one pass on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from workers.device import to_device

Ints = NDArray[np.int64]


def unpack_columns(runs: Sequence[Ints], columns: Ints, *, height: int, device: torch.device) -> torch.Tensor:
    """Return some columns of several masks side by side: (height, sum of widths) uint8, 0 or 1, rows contiguous.

    Takes two bytes a pixel of these columns, whatever the masks' own width.

    Args:
        runs: Of each mask, the lengths of its runs column by column, background first.
        columns: (N, 2), first column and end of what is wanted of each mask; columns beyond it are background.
        height: Pixels in a column.
        device: Where to unpack.
    """
    widths = columns[:, 1] - columns[:, 0]
    begins = (np.cumsum(widths) - widths) * height
    num_pixels = int(widths.sum()) * height
    changes = [
        begin + np.clip(np.cumsum(mask)[: len(mask) // 2 * 2] - first * height, 0, width * height)
        for mask, begin, first, width in zip(runs, begins, columns[:, 0], widths, strict=True)
    ]
    # One place more than there are pixels: a run that ends with the last column changes what follows it.
    flat = torch.zeros(num_pixels + 1, dtype=torch.uint8, device=device)
    places = to_device(np.concatenate([np.zeros(0, np.int64), *changes]), device)
    flat.index_add_(0, places, torch.ones(len(places), dtype=torch.uint8, device=device))
    # Modulo 256 the count of changes keeps its parity.
    bits = flat.cumsum(0, dtype=torch.uint8)[:num_pixels].bitwise_and_(1)
    return bits.view(int(widths.sum()), height).t().contiguous()
