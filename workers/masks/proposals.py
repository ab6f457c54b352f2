"""The masks of one image as the generator returns them, run-length encoded, before any reduction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_host
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.mask_candidates import MaskCandidates


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
    """

    size: tuple[int, int]
    counts: tuple[str, ...]
    boxes_px: tuple[Box, ...]
    areas_px: NDArray[np.int64]
    predicted_iou: NDArray[np.float32] | NDArray[np.float64]
    stability: NDArray[np.float32] | NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.counts)


def encode_proposals(found: MaskCandidates) -> Proposals:
    """Return mask candidates in the frame of a whole image as proposals in the same order, without empty masks.

    SAM itself keeps an empty mask only if the stability threshold is 0.
    """
    counts = [text for chunk in found.chunks(found.size) for text in rle.encode(chunk.masks())]
    areas = rle.areas(counts, found.size)
    filled = np.flatnonzero(areas)
    kept = [counts[row] for row in filled]
    predicted_iou, stability = to_host(found.predicted_iou, found.stability)
    return Proposals(
        size=found.size,
        counts=tuple(kept),
        boxes_px=tuple(rle.boxes(kept, found.size)),
        areas_px=areas[filled],
        predicted_iou=predicted_iou[filled],
        stability=stability[filled],
    )
