"""Candidate masks of one crop as a table of tensors, and the measures computed from their logits.

Masks are packed bits, eight pixels a byte. Of several hundred candidates a few survive, and only these are unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_host

MASK_THRESHOLD = 0.0
# Pixels of masks that are unpacked at once. Bounds memory; results do not depend on it.
_CHUNK_PIXELS = 32 * 2**20
_PIXELS_A_BYTE = 8
# Eight pixels (bytes of 0 or 1) form one little-endian word. Multiplied by this, its highest byte holds the eight bits.
_GATHER = 0x8040201008040201 - 2**64
# A byte times this is eight copies of it. Pixel 0 takes the highest bit, pixel 7 the lowest.
_COPY = 0x0101010101010101
_SCATTER = 0x0102040810204080


@dataclass(frozen=True)
class MaskCandidates:
    """Masks in the frame of a crop or of the image, in the order of points, then masks, until NMS reorders them.

    Attributes:
        size: (H, W) of the frame in pixels.
        bits: (N, ceil(H·W / 8)) uint8, the masks row by row, most significant bit first.
        boxes_px: (N, 4) int64, SAM's own boxes x0, y0, x1, y1 with x1, y1 INCLUSIVE; zeros where empty.
        predicted_iou: (N,) float32.
        stability: (N,) float32 in [0, 1]; NaN where no logit reaches the lower threshold.
    """

    size: tuple[int, int]
    bits: torch.Tensor
    boxes_px: torch.Tensor
    predicted_iou: torch.Tensor
    stability: torch.Tensor

    def __len__(self) -> int:
        """Return the number of mask candidates."""
        return len(self.boxes_px)

    def take(self, rows: torch.Tensor) -> MaskCandidates:
        """Return the mask candidates at `rows` (indices in a new order, or a bool mask)."""
        rows = set_rows(rows) if rows.dtype == torch.bool else rows
        return MaskCandidates(
            self.size, self.bits[rows], self.boxes_px[rows], self.predicted_iou[rows], self.stability[rows]
        )

    def in_host_memory(self) -> MaskCandidates:
        """Return the same mask candidates on the CPU."""
        columns = to_host(self.bits, self.boxes_px, self.predicted_iou, self.stability)
        return MaskCandidates(self.size, *map(torch.from_numpy, columns))

    def with_masks(self, masks: torch.Tensor) -> MaskCandidates:
        """Return the mask candidates with other masks (N, H, W) bool and new boxes; scores stay."""
        size = (masks.shape[1], masks.shape[2])
        return replace(self, size=size, bits=pack_bits(masks), boxes_px=inclusive_boxes(masks))

    def placed(self, crop: Box, size: tuple[int, int]) -> MaskCandidates:
        """Return a crop's mask candidates in the frame of its image (H, W), with background around the crop."""
        (x0, y0, x1, y1), (height, width) = crop, size
        if self.size == size:
            return self
        margins = (x0, width - x1, y0, height - y1)
        return concatenate([chunk.with_masks(F.pad(chunk.masks(), margins)) for chunk in self.chunks(size)])

    def chunks(self, size: tuple[int, int]) -> Iterator[MaskCandidates]:
        """Yield the mask candidates in order, in parts whose masks at `size` (H, W) fit in memory; at least one part.

        If there are no mask candidates, yield one empty part.
        """
        step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
        for first in range(0, max(1, len(self)), step):
            yield self.take(torch.arange(first, min(first + step, len(self)), device=self.bits.device))

    def masks(self) -> torch.Tensor:
        """Return the masks unpacked, (N, H, W) bool."""
        return unpack_bits(self.bits, self.size)


def concatenate(parts: Sequence[MaskCandidates]) -> MaskCandidates:
    """Return the mask candidates of at least one part, all in one frame, as one table in the order of the parts."""
    return MaskCandidates(
        parts[0].size,
        torch.cat([part.bits for part in parts]),
        torch.cat([part.boxes_px for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
    )


def measure(
    logits: torch.Tensor, predicted_iou: torch.Tensor, *, stability_offset: float, min_stability: float = 0.0
) -> MaskCandidates:
    """Return the mask candidates with the given mask logits (N, H, W) float32, at the crop's original size.

    Those below `min_stability` are dropped first; a bound of 0 or less keeps all, as in SAM.
    """
    stability = stability_scores(logits, stability_offset)
    if min_stability > 0:
        rows = set_rows(stability >= min_stability)
        logits, predicted_iou, stability = logits[rows], predicted_iou[rows], stability[rows]
    masks = logits > MASK_THRESHOLD
    height, width = masks.shape[-2:]
    return MaskCandidates((height, width), pack_bits(masks), inclusive_boxes(masks), predicted_iou, stability)


def set_rows(flags: torch.Tensor) -> torch.Tensor:
    """Return the rows, ascending int64, whose flag (N,) is set.

    An index of bools selects the same, but the CPU waits for a GPU at each use of it.
    """
    return flags.nonzero()[:, 0]


def stability_scores(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """Return (N,) float32, the IoU of each mask thresholded `offset` above with the same thresholded `offset` below.

    The first lies inside the second, so their areas are the intersection and the union.
    """
    intersections = _areas(logits > MASK_THRESHOLD + offset)
    unions = _areas(logits > MASK_THRESHOLD - offset)
    return intersections / unions


def _areas(masks: torch.Tensor) -> torch.Tensor:
    return masks.flatten(1).sum(1, dtype=torch.int32)


def inclusive_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return SAM's boxes of masks (N, H, W) bool: (N, 4) int64 x0, y0, x1, y1, x1 and y1 INCLUSIVE, 0 if empty.

    They are one pixel smaller than the tables' boxes. SAM's NMS is defined on them.
    """
    # `max` over bytes is fifty times as fast as `any` over bools.
    numbers = masks.view(torch.uint8)
    columns, rows = numbers.amax(dim=1), numbers.amax(dim=2)
    (x0, x1), (y0, y1) = _first_and_last(columns), _first_and_last(rows)
    return torch.stack([x0, y0, x1, y1], dim=1) * columns.amax(dim=1)[:, None]


def _first_and_last(is_set: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    last = is_set.shape[1] - 1
    return is_set.argmax(dim=1), last - is_set.flip(1).argmax(dim=1)


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
