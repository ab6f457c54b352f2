"""An image's masks: candidates as a table of tensors, then proposals as run-length codes, their reduction, records.

The proposers (`generator`, `sam2_model`, `ready_masks`), `instances`, and `recipe_runs` of `training/ppt/recipes` call
it. Candidates of a crop or an image are packed bits, eight pixels per byte: of several hundred a few survive, and only
these are unpacked. A mask's id is its row before the reduction, so no step may reorder candidates or `Proposals`. The
rules of the reduction to objects are three steps, each on the result of the one before: area, doubles, parts.
Source: method page, section 1, prior `none`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.primitives import rle
from pseudoris.schemas.config import ReductionConfig
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import Box, MaskRecord, MasksLeft, ShardImage

MASK_THRESHOLD = 0.0
_PIXELS_A_BYTE = 8
# A little-endian word of eight bytes, each 0 or 1, times this number has these bytes as the bits of its highest byte.
_GATHER = 0x8040201008040201 - 2**64
# A byte times `_COPY` is the byte eight times. `_SCATTER` keeps one bit of each: the highest for pixel 0, and so on.
_COPY = 0x0101010101010101
_SCATTER = 0x0102040810204080
# At most about this many pixels are unpacked at once, which bounds memory. Results do not depend on it.
_CHUNK_PIXELS = 32 * 2**20


@dataclass(frozen=True)
class MaskCandidates:
    """Masks in the frame of a crop or of the image, in the order of points, then masks, until NMS reorders them.

    Attributes:
        size: (H, W) of the frame in pixels.
        bits: (N, ceil(H·W / 8)) uint8, the masks row by row, most significant bit first. A `MaskBatch` keeps its masks
            on a GPU; then these are the numbers of their rows there, (N, 1) int64.
        boxes_px: (N, 4) int64, SAM's own boxes x0, y0, x1, y1 with x1, y1 INCLUSIVE; zeros where empty.
        predicted_iou: (N,) float32.
        stability: (N,) float32 in [0, 1]; NaN where no logit reaches the lower threshold.
    """

    size: tuple[int, int]
    bits: torch.Tensor
    boxes_px: torch.Tensor
    predicted_iou: torch.Tensor
    stability: torch.Tensor

    @property
    def columns(self) -> tuple[torch.Tensor, ...]:
        """All fields with a row per mask, in their order."""
        return self.bits, self.boxes_px, self.predicted_iou, self.stability

    def take(self, rows: torch.Tensor) -> MaskCandidates:
        """Return the mask candidates at `rows` (indices in a new order, or a bool mask)."""
        # A bool index would give the same, but each use of one makes the CPU wait for the GPU.
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return MaskCandidates(self.size, *(column[rows] for column in self.columns))

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
        return concatenate(
            [chunk.with_masks(F.pad(unpack_bits(chunk.bits, chunk.size), margins)) for chunk in self.chunks(size)]
        )

    def chunks(self, size: tuple[int, int]) -> Iterator[MaskCandidates]:
        """Yield the mask candidates in order, in parts whose masks at `size` (H, W) fit in memory; at least one."""
        step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
        for first in range(0, max(1, len(self.bits)), step):
            yield self.take(torch.arange(first, min(first + step, len(self.bits)), device=self.bits.device))


def concatenate(parts: Sequence[MaskCandidates]) -> MaskCandidates:
    """Return the mask candidates of at least one part, all in one frame, as one table in the order of the parts."""
    return MaskCandidates(parts[0].size, *map(torch.cat, zip(*(part.columns for part in parts), strict=True)))


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
    # The products of pixels and factor bits do not overlap, so no carry reaches the highest byte.
    return (words * _GATHER >> 56).to(torch.uint8)


def unpack_bits(bits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the masks (N, H, W) bool that `pack_bits` packed."""
    words = (bits.long() * _COPY & _SCATTER).flatten()
    pixels: torch.Tensor = (words.view(torch.uint8) != 0).view(len(bits), _PIXELS_A_BYTE * bits.shape[1])
    return pixels[:, : size[0] * size[1]].reshape(len(bits), *size)


@dataclass(frozen=True)
class Proposals:
    """The masks of one image in the generator's output order; none is empty.

    Attributes:
        size: (H, W) of the image in pixels.
        counts: N COCO compressed RLE strings.
        boxes_px: N tight boxes (x0, y0, x1, y1), x1 and y1 EXCLUSIVE.
        areas_px: (N,) int64, at least 1.
        predicted_iou: (N,) float32; for masks that were read from files float64, NaN if not stated.
        stability: (N,) in [0, 1], of the same dtype, for the mask before holes and islands were removed.
        left: How many masks the rules before the reduction have left.
    """

    size: tuple[int, int]
    counts: tuple[str, ...]
    boxes_px: tuple[Box, ...]
    areas_px: NDArray[np.int64]
    predicted_iou: NDArray[np.float32] | NDArray[np.float64]
    stability: NDArray[np.float32] | NDArray[np.float64]
    left: MasksLeft = field(default_factory=dict)

    @classmethod
    def of_masks(cls, size: tuple[int, int], counts: Sequence[str], iou: Any, stability: Any) -> Self:
        """Return masks with their scores (N,) as proposals in the same order, without those that have no pixels."""
        areas = rle.areas(counts, size)
        filled = np.flatnonzero(areas)
        kept = tuple(counts[row] for row in filled.tolist())
        return cls(size, kept, tuple(rle.boxes(kept, size)), areas[filled], iou[filled], stability[filled])

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.counts)


@dataclass(frozen=True)
class Kept:
    """A proposal that is kept: its row in the generator's order, and what decided so (`table:17`)."""

    row: int
    prior: str = "none"
    copy: int = 0  # 0 for the first instance that chose this proposal, 1 for the second, and so on


@dataclass(frozen=True)
class Reduction:
    """The proposals of an image that are kept, and how many each rule has left."""

    kept: list[Kept]
    left: MasksLeft

    def onto(self, image: ShardImage, proposals: Proposals) -> ShardImage:
        """Return the image with the masks that are kept."""
        return replace(image, masks=mask_records(image.image_id, proposals, self.kept), masks_left=self.left)


def reduce_proposals(proposals: Proposals, config: ReductionConfig) -> Reduction:
    """Return the proposals that are separate objects, in the generator's order.

    A double has an IoU above `mask_nms_iou` with a better mask that is kept. A part has at least `min_inside` of its
    pixels inside a larger mask that is kept, and at most `max_part_area` of its area; large masks are decided first, so
    that a part of a dropped mask is kept, and of two equal areas the earlier counts as the whole.
    """
    shares = proposals.areas_px / (proposals.size[0] * proposals.size[1])
    large = np.flatnonzero(shares >= config.min_area)
    within = large[shares[large] <= config.max_area]
    rows = without_doubles(proposals, within, config.mask_nms_iou)
    rows = rows[np.argsort(-proposals.areas_px[rows], kind="stable")]
    areas, counts = proposals.areas_px[rows], [proposals.counts[row] for row in rows]
    inside = rle.shares_inside(counts, counts, proposals.size)
    is_part = (inside >= config.min_inside) & (areas[:, None] <= config.max_part_area * areas[None, :])
    kept: list[int] = []
    for number in range(len(rows)):
        if not is_part[number, kept].any():
            kept.append(number)
    numbers = {"min_area": len(large), "max_area": len(within), "doubles": len(rows), "parts": len(kept)}
    return Reduction([Kept(int(row)) for row in np.sort(rows[kept])], proposals.left | numbers)


def num_too_small(proposals: Proposals, config: ReductionConfig) -> int:
    """Return how many proposals `min_area` alone drops: without it they would be neither doubles nor parts."""
    found = reduce_proposals(proposals, config.model_copy(update={"min_area": 0.0}))
    least = config.min_area * proposals.size[0] * proposals.size[1]
    return int((proposals.areas_px[[each.row for each in found.kept]] < least).sum())


def without_doubles(proposals: Proposals, rows: NDArray[np.intp], max_iou: float) -> NDArray[np.intp]:
    """Return the proposals of `rows` whose IoU with each better one that is kept is at most `max_iou`, best first."""
    rows = rows[np.argsort(-proposals.predicted_iou[rows], kind="stable")]
    counts = [proposals.counts[row] for row in rows]
    ious = rle.ious(counts, counts, proposals.size)
    kept: list[int] = []
    for number in range(len(rows)):
        if not kept or ious[number, kept].max() <= max_iou:
            kept.append(number)
    return rows[kept]


def mask_records(image_id: str, proposals: Proposals, kept: Iterable[Kept]) -> tuple[MaskRecord, ...]:
    """Return the records of the proposals that are kept.

    A mask's index is its row among all N proposals of its image, plus N for each copy before it. So ids are distinct,
    and depend neither on the other instances nor on their order.
    """
    records = []
    for one in kept:
        row, index = one.row, one.row + one.copy * len(proposals)
        predicted_iou, stability = float(proposals.predicted_iou[row]), float(proposals.stability[row])
        records.append(
            MaskRecord(
                mask_id=mask_id(image_id, index),
                index=index,
                rle_size=proposals.size,
                rle_counts=proposals.counts[row],
                box_xyxy_px=proposals.boxes_px[row],
                area_px=int(proposals.areas_px[row]),
                predicted_iou=None if math.isnan(predicted_iou) else predicted_iou,
                stability_score=None if math.isnan(stability) else stability,
                prior=one.prior,
            )
        )
    return tuple(records)
