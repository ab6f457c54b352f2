"""A batch of crops in two operations: sums over rows of pixels, then over the columns that these left.

All crops of the batch take part in both. Each output is a sum of its own, so that to the last bit a crop does not
depend on what it is computed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.device import to_device
from workers.images.cuts import BAND_ROWS, Cut
from workers.images.resampling import AxisTaps, axis_taps, weighted_sums
from workers.images.strips import ImageStrips, Windows, place_within

Ints = NDArray[np.int64]


class CropSums:
    """The crops of an image as they are summed up: colours 0 to 255 less the fill's, by bands of output rows."""

    def __init__(self, num_crops: int, size: int, device: torch.device) -> None:
        """Begin with crops that are nothing but fill."""
        self._size, self._num_bands = size, -(-size // BAND_ROWS)
        self._bands = torch.zeros(num_crops * self._num_bands, size, 3 * BAND_ROWS, device=device)

    def add(self, image: ImageStrips, cuts: Sequence[Cut]) -> None:
        """Compute the outputs of `cuts`, in one batch."""
        y, x = (_taps(cuts, axis, self._size) for axis in (1, 0))
        is_live: list[bool] = np.logical_and(y.count.any(axis=1), x.count.any(axis=1)).tolist()
        if not all(is_live):
            # Pieces of a crop that see its padding alone.
            cuts = [cut for cut, live in zip(cuts, is_live, strict=True) if live]
            if cuts:
                self.add(image, cuts)
            return
        plan = _Plan.of(cuts, y, x, strip_px=image.strip_px)
        rows = plan.sum_rows(image.table(plan.windows), y)
        sums = plan.sum_columns(rows, x)
        crops = np.array([cut.crop for cut in cuts])
        places = to_device(crops[plan.band_cut] * self._num_bands + plan.band, sums.device)
        # Pieces of one crop are zero where the others are not.
        self._bands.index_add_(0, places, sums.view(len(places), self._size, -1))

    def scaled(self, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Return (C, 3, size, size) float32: the sums times `gain` plus `offset`, both (3,)."""
        bands = self._bands.view(-1, self._num_bands, self._size, 3, BAND_ROWS).permute(0, 3, 1, 4, 2)
        crops = torch.empty(bands.shape, device=bands.device)
        torch.addcmul(offset.view(3, 1, 1, 1), bands, gain.view(3, 1, 1, 1), out=crops)
        return crops.flatten(2, 3)[:, :, : self._size].contiguous()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which sums a batch consists of. A band is `BAND_ROWS` output rows of a cut; a tile is a band of one strip.

    Attributes:
        windows: Of the image, what the cuts read.
        cut_window: (C,), the window of each cut.
        strips: (C, 2), the image's strips that each cut reads.
        band: (G,), number of each band in its crop; a cut's bands one after another.
        band_cut: (G,), cut of each band.
        strip_px: Columns of a strip.
    """

    windows: Windows
    cut_window: Ints
    strips: Ints
    band: Ints
    band_cut: Ints
    strip_px: int

    @classmethod
    def of(cls, cuts: Sequence[Cut], y: AxisTaps, x: AxisTaps, *, strip_px: int) -> _Plan:
        rows, columns = y.pixels(), x.pixels()
        strips = np.stack([columns[:, 0] // strip_px, -(-columns[:, 1] // strip_px)], axis=1)
        outputs = y.outputs()
        first = outputs[:, 0] // BAND_ROWS
        num_bands = -(-outputs[:, 1] // BAND_ROWS) - first
        band_cut = np.repeat(np.arange(len(cuts)), num_bands)
        windows, cut_window = _windows(cuts, rows, strips)
        return cls(windows, cut_window, strips, place_within(num_bands) + first[band_cut], band_cut, strip_px)

    def sum_rows(self, table: torch.Tensor, y: AxisTaps) -> torch.Tensor:
        """Return a row for each column of pixels of each band, strip after strip: (., 3 · BAND_ROWS)."""
        num_strips = self._band_strips()
        cut, band = np.repeat(self.band_cut, num_strips), np.repeat(self.band, num_strips)
        window = self.cut_window[cut]
        strip = place_within(num_strips) + self.strips[cut, 0] - self.windows.strips[window, 0]
        top = self.windows.starts[window] + strip * self.windows.num_rows[window] - self.windows.rows[window, 0]
        output = band[:, None] * BAND_ROWS + np.arange(BAND_ROWS)
        first, count, start = (_at(values, cut, output) for values in (y.first, y.count, y.start))
        sums = weighted_sums(
            table, (first + top[:, None]).ravel(), count=count.ravel(), start=start.ravel(), weights=y.weights
        )
        tiles = sums.view(len(cut), BAND_ROWS, self.strip_px * 3).transpose(1, 2)
        return tiles.reshape(len(cut) * self.strip_px, 3 * BAND_ROWS)

    def sum_columns(self, rows: torch.Tensor, x: AxisTaps) -> torch.Tensor:
        """Return (G · S, 3 · BAND_ROWS): each output column of each band."""
        num_strips = self._band_strips()
        begin = (np.cumsum(num_strips) - num_strips - self.strips[self.band_cut, 0]) * self.strip_px
        first, count, start = (values[self.band_cut] for values in (x.first, x.count, x.start))
        return weighted_sums(
            rows, (first + begin[:, None]).ravel(), count=count.ravel(), start=start.ravel(), weights=x.weights
        )

    def _band_strips(self) -> Ints:
        return (self.strips[:, 1] - self.strips[:, 0])[self.band_cut]


def _taps(cuts: Sequence[Cut], axis: int, size: int) -> AxisTaps:
    boxes = np.array([cut.box for cut in cuts])
    wanted = np.array([cut.rows if axis else cut.columns for cut in cuts])
    return axis_taps(boxes[:, [axis, axis + 2]], np.array([cut.side for cut in cuts]), wanted, size=size)


def _windows(cuts: Sequence[Cut], rows: Ints, strips: Ints) -> tuple[Windows, Ints]:
    """Return one window for all cuts of a mask, and another for its masked ones, and the window of each cut."""
    masks, is_masked = np.array([cut.mask for cut in cuts]), np.array([cut.is_masked for cut in cuts])
    # Masked windows sort behind all others.
    kinds, window = np.unique(np.stack([is_masked, masks], axis=1), axis=0, return_inverse=True)
    window = window.ravel()
    of_window = [_hulls(spans, window, len(kinds)) for spans in (rows, strips)]
    return Windows(of_window[0], of_window[1], kinds[kinds[:, 0] == 1, 1]), window


def _hulls(spans: Ints, group: Ints, num_groups: int) -> Ints:
    """Return (num_groups, 2): the smallest span that holds all of a group's."""
    hulls = np.stack([np.full(num_groups, np.iinfo(np.int64).max), np.zeros(num_groups, np.int64)], axis=1)
    np.minimum.at(hulls[:, 0], group, spans[:, 0])
    np.maximum.at(hulls[:, 1], group, spans[:, 1])
    return hulls


def _at(values: Ints, cut: Ints, output: Ints) -> Ints:
    """Return `values` (C, S) at (T,) cuts and their outputs (T, BAND_ROWS); 0 beyond the last output."""
    inside = output < values.shape[1]
    return np.where(inside, values[cut[:, None], np.minimum(output, values.shape[1] - 1)], 0)
