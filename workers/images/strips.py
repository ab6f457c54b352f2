"""An image and its masks as strips: rows of a few columns, which a sum over rows reads as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from workers.device import to_device
from workers.images.unpacking import unpack_columns

Ints = NDArray[np.int64]

# Columns of a strip, whose three colours are a few of a CPU's vector registers.
STRIP_PX: Final = 32


@dataclass(frozen=True, slots=True)
class Windows:
    """Parts of the image that are read together: W windows, the first of them as they are, the rest masked.

    Attributes:
        rows: (W, 2) int64, first row of pixels and end.
        strips: (W, 2) int64, first strip of the image and end.
        masks: (M,) int64, masks of the last M windows.
    """

    rows: Ints
    strips: Ints
    masks: Ints

    @property
    def num_rows(self) -> Ints:
        """(W,) int64, rows of pixels in each window."""
        return self.rows[:, 1] - self.rows[:, 0]

    @property
    def num_strips(self) -> Ints:
        """(W,) int64, strips in each window."""
        return self.strips[:, 1] - self.strips[:, 0]

    @property
    def starts(self) -> Ints:
        """(W,) int64, where each window begins in a table: strip after strip, each from top to bottom."""
        sizes: Ints = self.num_rows * self.num_strips
        ends: Ints = np.cumsum(sizes)
        return ends - sizes


class ImageStrips:
    """One decoded image on the device, a byte a colour, and its masks as run lengths."""

    def __init__(
        self, pixels: NDArray[np.uint8], runs: Sequence[Ints], *, fill_rgb: tuple[int, int, int], device: torch.device
    ) -> None:
        """Copy `pixels` (H, W, 3) uint8 RGB to the device; `runs` as in `unpack_columns`."""
        self._height, width = pixels.shape[:2]
        # Never wider than the image: of one column, 31 more would take 31 times its memory.
        self.strip_px = min(STRIP_PX, width)
        self._num_strips = -(-width // self.strip_px)
        padded = np.zeros((self._height, self._num_strips * self.strip_px, 3), dtype=np.uint8)
        padded[:, :width] = pixels
        self._rows = to_device(padded, device).view(-1, 3 * self.strip_px)
        self._fill = torch.tensor(fill_rgb, dtype=torch.float32, device=device).repeat(self.strip_px)
        self._runs, self._device = runs, device

    def table(self, windows: Windows) -> torch.Tensor:
        """Return (R, 3 · strip_px) float32, the windows' rows by strips: colours 0 to 255, less the fill's.

        Colours lie together pixel by pixel. Whole numbers, so that no sum of weights has rounded anything yet.
        """
        window = np.repeat(np.arange(len(windows.rows)), windows.num_strips)
        strip = place_within(windows.num_strips) + windows.strips[window, 0]
        top, height = windows.rows[window, 0], windows.num_rows[window]
        numbers = self._numbers(top * self._num_strips + strip, height, stride=self._num_strips)
        table = self._rows.index_select(0, numbers).float().sub_(self._fill)
        is_masked = window >= len(windows.rows) - len(windows.masks)
        if is_masked.any():
            bits = self._masks(windows)
            num_strips = int(is_masked.sum())
            numbers = self._numbers(
                top[is_masked] * num_strips + np.arange(num_strips), height[is_masked], stride=num_strips
            )
            masked = table[len(table) - len(numbers) :].view(-1, self.strip_px, 3)
            masked *= bits.view(-1, self.strip_px).index_select(0, numbers)[:, :, None]
        return table

    def _masks(self, windows: Windows) -> torch.Tensor:
        """Return the columns of the masked windows, from the image's top to its bottom, side by side."""
        strips = windows.strips[len(windows.rows) - len(windows.masks) :]
        runs = [self._runs[mask] for mask in windows.masks]
        return unpack_columns(runs, strips * self.strip_px, height=self._height, device=self._device)

    def _numbers(self, first: Ints, count: Ints, *, stride: int) -> torch.Tensor:
        """Return first[0], first[0] + stride, … `count[0]` times, then those of first[1], and so on."""
        begin = to_device(first - (np.cumsum(count) - count) * stride, self._device)
        num_rows = int(count.sum())
        of = torch.repeat_interleave(to_device(count, self._device), output_size=num_rows)
        return begin[of].add_(torch.arange(num_rows, device=self._device), alpha=stride)


def place_within(count: Ints) -> Ints:
    """Return 0 … count[0] - 1, then 0 … count[1] - 1, and so on."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
