"""Antialiased bilinear resizing of padded squares, as weighted sums over the pixels that exist.

Resizing is linear, one axis at a time, and its weights sum to one: of a picture's deviation from the colour that
it is padded with, the padding contributes nothing. So the square is never made, and an output pixel is a sum
over a run of neighbouring pixels, whose weights follow from the axis alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from workers.device import to_device

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AxisTaps:
    """Which pixels each of the S outputs of C crops reads along one axis, and how much they weigh.

    Attributes:
        first: (C, S) int64, the first pixel, in the image's frame.
        count: (C, S) int64, how many from there on; 0 where an output sees padding alone, or is not wanted.
        start: (C, S) int64, where an output's weights begin in `weights`.
        weights: (E,) float32, the weights of all outputs one after another.
    """

    first: Ints
    count: Ints
    start: Ints
    weights: NDArray[np.float32]

    def outputs(self) -> Ints:
        """Return (C, 2), the first output of each crop that reads a pixel, and the end of those that do."""
        reads = self.count > 0
        return np.stack([reads.argmax(axis=1), reads.shape[1] - reads[:, ::-1].argmax(axis=1)], axis=1)

    def pixels(self) -> Ints:
        """Return (C, 2), the first pixel that an output of each crop reads, and the end of those."""
        crop = np.arange(len(self.count))
        begin, end = self.outputs().T
        last = self.first[crop, end - 1] + self.count[crop, end - 1]
        return np.stack([self.first[crop, begin], last], axis=1)


def axis_taps(spans: Ints, sides: Ints, wanted: Ints, *, size: int) -> AxisTaps:
    """Return the taps of spans of pixels, each padded centrally to `side` pixels and resized to `size`.

    The triangle filter is as wide as an output pixel to each side, and at least as an input pixel. What the square's
    border cuts off is left out of the sum that weights are divided by; padding is not. Of an odd rest of padding the
    end gets one pixel more. Source: Pillow 12, Resample.c, precompute_coeffs.

    Args:
        spans: (C, 2), first pixel and end of each crop along the axis.
        sides: (C,), the padded length, at least the span's.
        wanted: (C, 2), first output and end; taps of the others are not counted.
        size: Number of outputs S.
    """
    scale = (sides / size)[:, None]
    reach = np.maximum(scale, 1.0)
    outputs = np.arange(size)
    centre = (outputs + 0.5) * scale
    length = spans[:, 1] - spans[:, 0]
    before = ((sides - length) // 2)[:, None]
    low = np.maximum(np.floor(centre - reach + 0.5), before).astype(np.int64)
    high = np.minimum(np.floor(centre + reach + 0.5), before + length[:, None]).astype(np.int64)
    is_wanted = (outputs >= wanted[:, :1]) & (outputs < wanted[:, 1:])
    count = np.where(is_wanted, np.maximum(high - low, 0), 0)
    total = _triangle_sums(centre, sides[:, None], reach)
    ends = np.cumsum(count).reshape(count.shape)
    output = np.repeat(np.arange(count.size), count.ravel())
    pixel = np.arange(len(output)) + (low - ends + count).ravel()[output]
    distance = np.abs(pixel + 0.5 - centre.ravel()[output]) / np.repeat(reach.ravel(), count.sum(axis=1))
    weights = (np.maximum(1 - distance, 0) / total.ravel()[output]).astype(np.float32)
    return AxisTaps(low - before + spans[:, :1], count, ends - count, weights)


def weighted_sums(
    table: torch.Tensor, first: Ints, *, count: Ints, start: Ints, weights: NDArray[np.float32]
) -> torch.Tensor:
    """Return (B, D): of each of B runs of rows of `table`, their weighted sum; zeros for an empty run.

    A run is summed by itself and in order: its bits depend on no other run.

    Args:
        table: (R, D) float32, on the device that computes.
        first: (B,), each run's first row.
        count: (B,), rows in each run.
        start: (B,), where each run's weights begin in `weights`.
        weights: (E,), weights of runs; runs may share them.
    """
    device = table.device
    num_rows = int(count.sum())
    offsets = np.cumsum(count) - count
    run = torch.repeat_interleave(to_device(count, device), output_size=num_rows)
    place = torch.arange(num_rows, device=device)
    rows = to_device(first - offsets, device)[run].add_(place)
    places = to_device(start - offsets, device)[run].add_(place)
    return F.embedding_bag(
        rows,
        table,
        to_device(offsets, device),
        mode="sum",
        per_sample_weights=to_device(weights, device)[places],
    )


def _triangle_sums(centres: NDArray[np.float64], side: Ints, reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of every output's triangle over all pixels of the square, in closed form; shapes broadcast."""
    # Pixels [first, middle) lie on the rising flank, [middle, last) on the falling one.
    first = np.maximum(np.floor(centres - reach + 0.5), 0)
    middle = np.floor(centres + 0.5)
    last = np.minimum(np.floor(centres + reach + 0.5), side)
    rising = (middle - first) * (1 - (centres - (first + middle) / 2) / reach)
    sums: NDArray[np.float64] = rising + (last - middle) * (1 - ((middle + last) / 2 - centres) / reach)
    return sums
