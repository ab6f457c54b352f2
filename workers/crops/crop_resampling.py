"""Cuts, pads and resizes a batch of crops by two weighted sums: over rows of pixels, then over columns. For `crops`.

A *tile* is a crop, or a part of its output; `tile_batches` divides crops into tiles below a bound in bytes, which must
not change any bit. A *strip* is a few columns of the image; a sum over rows reads each of its rows as a vector. Masks
stay run lengths until a batch reads them.

Bilinear resizing is linear in each axis, and its weights sum to one. So padding adds nothing to an image's deviation
from the padding colour, and the padded square is never built: an output pixel is a weighted sum over a run of existing
pixels. Each output must be summed separately and in order, so that a crop has the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_device

Ints = NDArray[np.int64]
Span = tuple[int, int]

# A strip has this many columns. Their three colours fill a few vector registers of a CPU.
STRIP_PX: Final = 32
# This many output rows are summed together. Their three colours also fill a few vector registers.
BAND_ROWS: Final = 16

_FLOAT_PIXEL_BYTES: Final = 12
# A tap, one input of a weighted sum, takes this many bytes: the number and the weight of a row, and temporaries.
_TAP_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class CropTile:
    """A crop, or a part of its output."""

    crop: int  # number of the crop among all of the image's
    mask: int
    is_masked: bool  # whether pixels outside the mask are filled
    box: Box  # (x0, y0, x1, y1) in upright image pixels, x1 and y1 exclusive, not empty
    rows: Span  # first and end (exclusive) of the output rows that this tile computes
    columns: Span  # the same for columns


def tile_batches(tiles: list[CropTile], *, size: int, max_bytes: int) -> Iterator[list[CropTile]]:
    """Yield the tiles in order, in batches of at most about `max_bytes` each; large tiles are divided.

    A tile of one output pixel is never divided, so in a huge image it may take more.
    """
    batch: list[CropTile] = []
    taken = 0
    for tile in chain.from_iterable(_pieces(tile, size, max_bytes) for tile in tiles):
        needed = tile_bytes(tile, size=size)
        if batch and taken + needed > max_bytes:
            yield batch
            batch, taken = [], 0
        batch.append(tile)
        taken += needed
    if batch:
        yield batch


def tile_bytes(tile: CropTile, *, size: int) -> int:
    """Return approximately how many bytes a tile takes while it is computed, without its result."""
    side = max(tile.box[2] - tile.box[0], tile.box[3] - tile.box[1])  # of the padded square crop
    scale = side / size
    # These are upper bounds of the number of pixels that the outputs read along each axis.
    height, width = (
        min(tile.box[axis + 2] - tile.box[axis], int((end - begin) * scale + 2 * max(scale, 1.0)) + 1)
        for axis, (begin, end) in ((1, tile.rows), (0, tile.columns))
    )
    num_rows = min(tile.rows[1] - tile.rows[0], height * size // side + 2) + BAND_ROWS
    num_columns = tile.columns[1] - tile.columns[0]
    # `pixels` counts the pixels, a masked copy of them, and rows of outputs in two orders.
    pixels = 2 * (height + num_rows) * (width + STRIP_PX)
    taps = (2 * height + num_rows) * (width // STRIP_PX + 1) + (2 * width + num_columns) * (num_rows // BAND_ROWS)
    return _FLOAT_PIXEL_BYTES * pixels + _TAP_BYTES * taps


def _pieces(tile: CropTile, size: int, max_bytes: int) -> Iterator[CropTile]:
    num_rows, num_columns = tile.rows[1] - tile.rows[0], tile.columns[1] - tile.columns[0]
    if tile_bytes(tile, size=size) <= max_bytes or num_rows == num_columns == 1:
        yield tile
        return
    is_high = tile.box[3] - tile.box[1] > tile.box[2] - tile.box[0]
    by_rows = num_columns == 1 or (num_rows > 1 and is_high)
    begin, end = tile.rows if by_rows else tile.columns
    middle = (begin + end) // 2
    for half in ((begin, middle), (middle, end)):
        yield from _pieces(replace(tile, rows=half) if by_rows else replace(tile, columns=half), size, max_bytes)


@dataclass(frozen=True, slots=True)
class Windows:
    """Parts of the image that are read together: W windows, first the unmasked ones, then the masked ones."""

    rows: Ints  # (W, 2) int64, first row of pixels and end (exclusive)
    strips: Ints  # (W, 2) int64, first strip of the image and end (exclusive)
    masks: Ints  # (M,) int64, the masks of the last M windows
    num_rows: Ints  # (W,) int64, rows of pixels in each window
    num_strips: Ints  # (W,) int64, strips in each window
    starts: Ints  # (W,) int64, where each window begins in a table: strip after strip, each from top to bottom


class TiledImage:
    """One decoded image on the device, a byte per colour, and its masks as run lengths."""

    def __init__(
        self, pixels: NDArray[np.uint8], runs: Sequence[Ints], *, fill_rgb: tuple[int, int, int], device: torch.device
    ) -> None:
        """Copy `pixels` (H, W, 3) uint8 RGB to the device; `runs` as in `unpack_columns`."""
        self._height, width = pixels.shape[:2]
        # A strip is not wider than the image: for an image of one column, full strips would take 32 times the memory.
        self.strip_px = min(STRIP_PX, width)
        self._num_strips = -(-width // self.strip_px)
        padded = np.zeros((self._height, self._num_strips * self.strip_px, 3), dtype=np.uint8)
        padded[:, :width] = pixels
        self._rows = to_device(padded, device).view(-1, 3 * self.strip_px)
        self._fill = to_device(torch.tensor(fill_rgb, dtype=torch.float32).repeat(self.strip_px), device)
        self._runs, self._device = runs, device

    def table(self, windows: Windows) -> torch.Tensor:
        """Return (R, 3 · strip_px) float32, the windows' rows by strips: colours from 0 to 255, minus the fill colour.

        The colours of a pixel are adjacent. All values are whole numbers, so nothing is rounded before the weighted
        sums.
        """
        window = np.repeat(np.arange(len(windows.rows)), windows.num_strips)
        strip = segmented_arange(windows.num_strips) + windows.strips[window, 0]
        top, height = windows.rows[window, 0], windows.num_rows[window]
        numbers = self._numbers(top * self._num_strips + strip, height, stride=self._num_strips)
        table = self._rows.index_select(0, numbers).float().sub_(self._fill)
        is_masked = window >= len(windows.rows) - len(windows.masks)
        if is_masked.any():
            # `columns` has each masked window's first and end column. `bits` has these columns side by side.
            columns = windows.strips[len(windows.rows) - len(windows.masks) :] * self.strip_px
            runs = [self._runs[mask] for mask in windows.masks]
            bits = unpack_columns(runs, columns, height=self._height, device=self._device)
            num_strips = int(is_masked.sum())
            numbers = self._numbers(
                top[is_masked] * num_strips + np.arange(num_strips), height[is_masked], stride=num_strips
            )
            masked = table[len(table) - len(numbers) :].view(-1, self.strip_px, 3)
            masked *= bits.view(-1, self.strip_px).index_select(0, numbers)[:, :, None]
        return table

    def _numbers(self, first: Ints, count: Ints, *, stride: int) -> torch.Tensor:
        """Return first[0], first[0] + stride, … `count[0]` times, then those of first[1], and so on."""
        begin = to_device(first - (np.cumsum(count) - count) * stride, self._device)
        num_rows = int(count.sum())
        of = torch.repeat_interleave(to_device(count, self._device), output_size=num_rows)
        return begin[of].add_(torch.arange(num_rows, device=self._device), alpha=stride)


def unpack_columns(runs: Sequence[Ints], columns: Ints, *, height: int, device: torch.device) -> torch.Tensor:
    """Return some columns of several masks side by side: (height, sum of widths) uint8, 0 or 1, rows contiguous.

    `runs` are the lengths of each mask's runs, column by column, background first. `columns` (N, 2) are the first
    column of each mask and the end (exclusive); those outside the mask are background. It takes two bytes a pixel.
    """
    widths = columns[:, 1] - columns[:, 0]
    begins = (np.cumsum(widths) - widths) * height
    num_pixels = int(widths.sum()) * height
    changes = [
        begin + np.clip(np.cumsum(mask)[: len(mask) // 2 * 2] - first * height, 0, width * height)
        for mask, begin, first, width in zip(runs, begins, columns[:, 0], widths, strict=True)
    ]
    # There is one entry more than pixels, because a run that ends with the last column changes the entry after it.
    flat = torch.zeros(num_pixels + 1, dtype=torch.uint8, device=device)
    positions = to_device(np.concatenate([np.zeros(0, np.int64), *changes]), device)
    flat.index_add_(0, positions, torch.ones(len(positions), dtype=torch.uint8, device=device))
    # Only the parity of the number of changes matters, and overflow of uint8 keeps it.
    bits = flat.cumsum(0, dtype=torch.uint8)[:num_pixels].bitwise_and_(1)
    return bits.view(int(widths.sum()), height).t().contiguous()


def segmented_arange(count: Ints) -> Ints:
    """Return 0 … count[0] - 1, then 0 … count[1] - 1, and so on."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


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
        begin = (np.cumsum(plan.band_strips) - plan.band_strips - plan.strips[plan.band_tile, 0]) * image.strip_px
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
        return sums.view(len(tile), BAND_ROWS, -1).transpose(1, 2).reshape(-1, 3 * BAND_ROWS)
