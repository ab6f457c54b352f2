"""Candidate masks of one crop as a table of tensors, and what is measured on their logits.

Masks are kept as packed bits, eight pixels a byte: of some hundred candidates a few survive, and only those
are ever unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from schemas.shard import Box

MASK_THRESHOLD = 0.0
# Pixels of masks that are unpacked at once; bounds memory and decides no result.
_CHUNK_PIXELS = 32 * 2**20
_PIXELS_A_BYTE = 8
# Eight pixels, bytes of 0 or 1 that are read as one little-endian word, times this have their bits in the highest byte.
_GATHER = 0x8040201008040201 - 2**64
# A byte times this is eight copies of it, of which pixel 0 takes the highest bit and pixel 7 the lowest.
_COPY = 0x0101010101010101
_SCATTER = 0x0102040810204080


@dataclass(frozen=True)
class Candidates:
    """Masks of one frame, a crop or the whole image; ordered by point, then by mask, until NMS orders them anew.

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
        """Return the number of candidates."""
        return len(self.boxes_px)

    def take(self, rows: torch.Tensor) -> Candidates:
        """Return the candidates at `rows` (indices in a new order, or a bool mask)."""
        return Candidates(
            self.size, self.bits[rows], self.boxes_px[rows], self.predicted_iou[rows], self.stability[rows]
        )

    def with_masks(self, masks: torch.Tensor) -> Candidates:
        """Return the candidates with other masks (N, H, W) bool and their boxes; scores as they were."""
        size = (masks.shape[1], masks.shape[2])
        return replace(self, size=size, bits=pack_bits(masks), boxes_px=inclusive_boxes(masks))

    def placed(self, crop: Box, size: tuple[int, int]) -> Candidates:
        """Return a crop's candidates in the frame of its image (H, W), background around them."""
        (x0, y0, x1, y1), (height, width) = crop, size
        if self.size == size:
            return self
        margins = (x0, width - x1, y0, height - y1)
        return concatenate([chunk.with_masks(F.pad(chunk.masks(), margins)) for chunk in self.chunks(size)])

    def chunks(self, size: tuple[int, int]) -> Iterator[Candidates]:
        """Yield the candidates in order, so few at once that their masks at `size` (H, W) fit in memory; at least one.

        Of no candidates the one part is empty.
        """
        step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
        for at in range(0, max(1, len(self)), step):
            yield self.take(torch.arange(at, min(at + step, len(self)), device=self.bits.device))

    def masks(self) -> torch.Tensor:
        """Return the masks unpacked, (N, H, W) bool."""
        return unpack_bits(self.bits, self.size)


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """Return candidates of one frame as one table, in the parts' order; at least one part."""
    return Candidates(
        parts[0].size,
        torch.cat([part.bits for part in parts]),
        torch.cat([part.boxes_px for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
    )


def measure(
    logits: torch.Tensor, predicted_iou: torch.Tensor, *, stability_offset: float, min_stability: float = 0.0
) -> Candidates:
    """Return the candidates of mask logits (N, H, W) float32 at the crop's original size.

    Those below `min_stability` are left out before anything else is measured; 0 or less keeps all, as SAM does.
    """
    stability = stability_scores(logits, stability_offset)
    if min_stability > 0:
        is_stable = stability >= min_stability
        logits, predicted_iou, stability = logits[is_stable], predicted_iou[is_stable], stability[is_stable]
    masks = logits > MASK_THRESHOLD
    height, width = masks.shape[-2:]
    return Candidates((height, width), pack_bits(masks), inclusive_boxes(masks), predicted_iou, stability)


def stability_scores(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """Return the IoU of each mask's two versions, thresholded `offset` above and below, (N,) float32.

    The upper version lies inside the lower one, so their areas are intersection and union.
    """
    intersections = _areas(logits > MASK_THRESHOLD + offset)
    unions = _areas(logits > MASK_THRESHOLD - offset)
    return intersections / unions


def _areas(masks: torch.Tensor) -> torch.Tensor:
    return masks.flatten(1).sum(1, dtype=torch.int32)


def inclusive_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return SAM's boxes of masks (N, H, W) bool: (N, 4) int64 x0, y0, x1, y1, x1 and y1 INCLUSIVE, 0 if empty.

    One pixel short of the tables' boxes; SAM's NMS is defined on them.
    """
    # The largest of bytes is found fifty times as fast as `any` of bools.
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
    # No two products of a pixel and a bit of the factor meet, so nothing is carried into the highest byte.
    return (words * _GATHER >> 56).to(torch.uint8)


def unpack_bits(bits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the masks (N, H, W) bool that `pack_bits` packed."""
    words = (bits.long() * _COPY & _SCATTER).flatten()
    pixels: torch.Tensor = (words.view(torch.uint8) != 0).view(len(bits), _PIXELS_A_BYTE * bits.shape[1])
    return pixels[:, : size[0] * size[1]].reshape(len(bits), *size)
