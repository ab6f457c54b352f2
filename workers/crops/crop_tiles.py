"""Input and output of a batch of crops: tiles of crops; the image and its masks as strips of columns.

Called by `crops` and `crop_resampling`. A *tile* is a crop, or a part of its output; `tile_batches` divides crops into
tiles below a bound in bytes, which must not change any bit. A *strip* is a few columns of the image; a sum over rows
reads each of its rows as a vector. Masks stay run lengths until a batch reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np
import torch
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
    if num_columns == 1 or (num_rows > 1 and tile.box[3] - tile.box[1] > tile.box[2] - tile.box[0]):
        begin, middle, end = tile.rows[0], sum(tile.rows) // 2, tile.rows[1]
        halves = [replace(tile, rows=half) for half in ((begin, middle), (middle, end))]
    else:
        begin, middle, end = tile.columns[0], sum(tile.columns) // 2, tile.columns[1]
        halves = [replace(tile, columns=half) for half in ((begin, middle), (middle, end))]
    for half in halves:
        yield from _pieces(half, size, max_bytes)


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
