"""Cuts, pads and resizes a batch of crops by two weighted sums: over rows of pixels, then over columns. For `crops`.

Bilinear resizing is linear in each axis, and its weights sum to one. So padding adds nothing to an image's deviation
from the padding colour, and the padded square is never built: an output pixel is a weighted sum over a run of existing
pixels. Each output must be summed separately and in order, so that a crop has the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.workers.crops.crop_tiles import BAND_ROWS, CropTile, Ints, TiledImage, Windows, segmented_arange
from pseudoris.workers.device import to_device


@dataclass(frozen=True, slots=True)
class AxisTaps:
    """The pixels that each of the S outputs of C crops reads along one axis, and their weights."""

    first: Ints  # (C, S) int64, the first pixel, in the image's frame
    count: Ints  # (C, S) int64, the number of pixels from there on; 0 if an output sees only padding, or is not wanted
    start: Ints  # (C, S) int64, index of an output's first weight in `weights`
    weights: NDArray[np.float32]  # (E,) float32, the weights of all outputs one after another


def axis_taps(spans: Ints, sides: Ints, wanted: Ints, *, size: int, has_antialiasing: bool = True) -> AxisTaps:
    """Return the taps of spans of pixels, each padded centrally to its side and resized to `size`.

    The triangle filter reaches one output pixel to each side, and at least one input pixel. Without antialiasing it
    reaches one input pixel: it interpolates between two neighbours, and repeats the pixel at an edge. Weights are
    divided by the sum of the triangle inside the padded square, padding included. If the padding is odd, the end gets
    one pixel more.
    Source: Pillow 12, Resample.c, precompute_coeffs.

    `spans` (C, 2) are the first pixel and the end of each crop along the axis; `sides` (C,) are the padded lengths, at
    least the spans'. Outputs outside of `wanted` (C, 2), first output and end (exclusive), get no taps.
    """
    scale = (sides / size)[:, None]
    reach = np.maximum(scale, 1.0) if has_antialiasing else np.ones_like(scale)
    outputs = np.arange(size)
    centre = (outputs + 0.5) * scale
    length = spans[:, 1] - spans[:, 0]
    before = ((sides - length) // 2)[:, None]
    low = np.maximum(np.floor(centre - reach + 0.5), before).astype(np.int64)
    high = np.minimum(np.floor(centre + reach + 0.5), before + length[:, None]).astype(np.int64)
    is_wanted = (outputs >= wanted[:, :1]) & (outputs < wanted[:, 1:])
    count = np.where(is_wanted, np.maximum(high - low, 0), 0)
    # The sum of each output's triangle over all pixels of the square, in closed form: pixels [first, middle) lie on the
    # rising flank, [middle, last) on the falling one.
    first, middle = np.maximum(np.floor(centre - reach + 0.5), 0), np.floor(centre + 0.5)
    last = np.minimum(np.floor(centre + reach + 0.5), sides[:, None])
    rising = (middle - first) * (1 - (centre - (first + middle) / 2) / reach)
    total = rising + (last - middle) * (1 - ((middle + last) / 2 - centre) / reach)
    ends = np.cumsum(count).reshape(count.shape)
    output = np.repeat(np.arange(count.size), count.ravel())
    pixel = np.arange(len(output)) + (low - ends + count).ravel()[output]
    distance = np.abs(pixel + 0.5 - centre.ravel()[output]) / np.repeat(reach.ravel(), count.sum(axis=1))
    weights = (np.maximum(1 - distance, 0) / total.ravel()[output]).astype(np.float32)
    return AxisTaps(low - before + spans[:, :1], count, ends - count, weights)


def weighted_sums(
    table: torch.Tensor, first: Ints, *, count: Ints, start: Ints, weights: NDArray[np.float32]
) -> torch.Tensor:
    """Return (B, D), the weighted sum of each of B runs of rows of `table` (R, D) float32; zeros for an empty run.

    A run has `count` (B,) rows from `first` (B,) on. Its weights begin at `start` (B,) of `weights` (E,); runs may
    share them. A run is summed alone and in order, so its bits do not depend on other runs.
    """
    device = table.device
    num_rows = int(count.sum())
    offsets = np.cumsum(count) - count
    run = torch.repeat_interleave(to_device(count, device), output_size=num_rows)
    entry = torch.arange(num_rows, device=device)
    rows = to_device(first - offsets, device)[run].add_(entry)
    entries = to_device(start - offsets, device)[run].add_(entry)
    return F.embedding_bag(
        rows, table, to_device(offsets, device), mode="sum", per_sample_weights=to_device(weights, device)[entries]
    )


class CropAccumulator:
    """Sums up the crops of an image by bands of output rows: colours from 0 to 255, minus the fill colour."""

    def __init__(self, num_crops: int, size: int, device: torch.device, *, has_antialiasing: bool = True) -> None:
        """Start with crops that contain only the fill; `has_antialiasing` as in `CropFormat`."""
        self._has_antialiasing = has_antialiasing
        self._size, self._num_bands = size, -(-size // BAND_ROWS)
        self._bands = torch.zeros(num_crops * self._num_bands, size, 3 * BAND_ROWS, device=device)

    def add(self, image: TiledImage, tiles: Sequence[CropTile]) -> None:
        """Compute the outputs of `tiles`, in one batch."""
        boxes = np.array([tile.box for tile in tiles])
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        spans, size = (boxes[:, [1, 3]], boxes[:, [0, 2]]), self._size
        wanted = (np.array([tile.rows for tile in tiles]), np.array([tile.columns for tile in tiles]))
        y, x = (
            axis_taps(along, sides, outputs, size=size, has_antialiasing=self._has_antialiasing)
            for along, outputs in zip(spans, wanted, strict=True)
        )
        is_live: list[bool] = np.logical_and(y.count.any(axis=1), x.count.any(axis=1)).tolist()
        if not all(is_live):
            tiles = [tile for tile, live in zip(tiles, is_live, strict=True) if live]
            if tiles:
                self.add(image, tiles)
            return
        plan = _Plan.of(tiles, y, x, strip_px=image.strip_px)
        rows = plan.sum_rows(image.table(plan.windows), y)
        # `sums` (G · S, 3 · BAND_ROWS), computed below, has every output column of each band.
        begin = (np.cumsum(plan.band_strips) - plan.band_strips - plan.strips[plan.band_tile, 0]) * plan.strip_px
        first, count, start = (values[plan.band_tile] for values in (x.first, x.count, x.start))
        first = (first + begin[:, None]).ravel()
        sums = weighted_sums(rows, first, count=count.ravel(), start=start.ravel(), weights=x.weights)
        crops = np.array([tile.crop for tile in tiles])
        bands = to_device(crops[plan.band_tile] * self._num_bands + plan.band, sums.device)
        # Tiles of one crop do not overlap, so they may be added: where one tile has values, the others are 0.
        self._bands.index_add_(0, bands, sums.view(len(bands), self._size, -1))

    def scaled(self, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Return (C, 3, size, size) float32: the sums times `gain` plus `offset`, both (3,)."""
        bands = self._bands.view(-1, self._num_bands, self._size, 3, BAND_ROWS).permute(0, 3, 1, 4, 2)
        crops = torch.empty(bands.shape, device=bands.device)
        torch.addcmul(offset.view(3, 1, 1, 1), bands, gain.view(3, 1, 1, 1), out=crops)
        return crops.flatten(2, 3)[:, :, : self._size].contiguous()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a batch sums. A band is `BAND_ROWS` output rows of a tile."""

    windows: Windows  # the parts of the image that the tiles read
    tile_window: Ints  # (C,), the window of each tile
    strips: Ints  # (C, 2), the image's strips that each tile reads
    band: Ints  # (G,), number of each band in its crop; the bands of a tile are consecutive
    band_tile: Ints  # (G,)
    band_strips: Ints  # (G,), how many strips each band reads
    strip_px: int  # columns of a strip

    @classmethod
    def of(cls, tiles: Sequence[CropTile], y: AxisTaps, x: AxisTaps, *, strip_px: int) -> _Plan:
        """Plan one window for all unmasked tiles of a mask, and one for its masked tiles."""
        # By axis and tile, `outputs` has the span of outputs that read pixels, `pixels` the span of these pixels.
        tile, outputs, pixels = np.arange(len(tiles)), [], []
        for taps in (y, x):
            reads = taps.count > 0
            begin, end = reads.argmax(axis=1), reads.shape[1] - reads[:, ::-1].argmax(axis=1)
            outputs.append((begin, end))
            last = taps.first[tile, end - 1] + taps.count[tile, end - 1]
            pixels.append(np.stack([taps.first[tile, begin], last], axis=1))
        rows, columns = pixels
        strips = np.stack([columns[:, 0] // strip_px, -(-columns[:, 1] // strip_px)], axis=1)
        first_band = outputs[0][0] // BAND_ROWS
        num_bands = -(-outputs[0][1] // BAND_ROWS) - first_band
        band_tile = np.repeat(tile, num_bands)
        masks, is_masked = np.array([each.mask for each in tiles]), np.array([each.is_masked for each in tiles])
        # Masked windows come last, where `TiledImage.table` expects them.
        kinds, window = np.unique(np.stack([is_masked, masks], axis=1), axis=0, return_inverse=True)
        window = window.ravel()
        hulls = []
        for spans in (rows, strips):
            # `hull` is, for each window, the smallest span that contains the spans of all its tiles.
            hull = np.tile([np.iinfo(np.int64).max, 0], (len(kinds), 1))
            np.minimum.at(hull[:, 0], window, spans[:, 0])
            np.maximum.at(hull[:, 1], window, spans[:, 1])
            hulls.append(hull)
        num_rows, num_strips = (hull[:, 1] - hull[:, 0] for hull in hulls)
        starts = np.cumsum(num_rows * num_strips) - num_rows * num_strips
        return cls(
            Windows(hulls[0], hulls[1], kinds[kinds[:, 0] == 1, 1], num_rows, num_strips, starts),
            window,
            strips,
            segmented_arange(num_bands) + first_band[band_tile],
            band_tile,
            (strips[:, 1] - strips[:, 0])[band_tile],
            strip_px,
        )

    def sum_rows(self, table: torch.Tensor, y: AxisTaps) -> torch.Tensor:
        """Return a row for each column of pixels of each band, strip after strip: (., 3 · BAND_ROWS)."""
        tile, band = np.repeat(self.band_tile, self.band_strips), np.repeat(self.band, self.band_strips)
        window = self.tile_window[tile]
        strip = segmented_arange(self.band_strips) + self.strips[tile, 0] - self.windows.strips[window, 0]
        top = self.windows.starts[window] + strip * self.windows.num_rows[window] - self.windows.rows[window, 0]
        output = band[:, None] * BAND_ROWS + np.arange(BAND_ROWS)
        num_outputs = y.count.shape[1]
        # The last band may reach beyond the last output. There the count is 0, so the sum is 0.
        first, count, start = (
            np.where(output < num_outputs, values[tile[:, None], np.minimum(output, num_outputs - 1)], 0)
            for values in (y.first, y.count, y.start)
        )
        sums = weighted_sums(
            table, (first + top[:, None]).ravel(), count=count.ravel(), start=start.ravel(), weights=y.weights
        )
        columns = sums.view(len(tile), BAND_ROWS, self.strip_px * 3).transpose(1, 2)
        return columns.reshape(len(tile) * self.strip_px, 3 * BAND_ROWS)
