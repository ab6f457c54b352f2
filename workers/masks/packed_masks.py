"""Masks as packed bits, eight pixels a byte, and their boxes: what mask candidates hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MASK_THRESHOLD = 0.0
_PIXELS_A_BYTE = 8
# Eight pixels (bytes of 0 or 1) form one little-endian word. Multiplied by this, its highest byte holds the eight bits.
_GATHER = 0x8040201008040201 - 2**64
# A byte times this is eight copies of it. Pixel 0 takes the highest bit, pixel 7 the lowest.
_COPY = 0x0101010101010101
_SCATTER = 0x0102040810204080


def inclusive_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return SAM's boxes of masks (N, H, W) bool: (N, 4) int64 x0, y0, x1, y1, x1 and y1 INCLUSIVE, 0 if empty.

    They are one pixel smaller than the tables' boxes. SAM's NMS is defined on them.
    """
    # `max` over bytes is fifty times as fast as `any` over bools.
    numbers = masks.view(torch.uint8)
    columns, rows = numbers.amax(dim=1), numbers.amax(dim=2)
    x0, y0 = columns.argmax(dim=1), rows.argmax(dim=1)
    x1, y1 = (is_set.shape[1] - 1 - is_set.flip(1).argmax(dim=1) for is_set in (columns, rows))
    return torch.stack([x0, y0, x1, y1], dim=1) * columns.amax(dim=1)[:, None]


def pack_bits(masks: torch.Tensor) -> torch.Tensor:
    """Return masks (N, H, W) bool as (N, ceil(H·W / 8)) uint8, row by row, most significant bit first."""
    flat = masks.flatten(1).view(torch.uint8)
    words = F.pad(flat, (0, -flat.shape[1] % _PIXELS_A_BYTE)).view(torch.int64)
    # No two products of a pixel and a bit of the factor overlap, so nothing is carried into the highest byte.
    return (words * _GATHER >> 56).to(torch.uint8)


def unpack_bits(bits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the masks (N, H, W) bool that `pack_bits` packed."""
    words = (bits.long() * _COPY & _SCATTER).flatten()
    pixels: torch.Tensor = (words.view(torch.uint8) != 0).view(len(bits), _PIXELS_A_BYTE * bits.shape[1])
    return pixels[:, : size[0] * size[1]].reshape(len(bits), *size)
