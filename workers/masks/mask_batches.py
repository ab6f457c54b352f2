"""The masks of several images at once, for a GPU: the CPU waits for it three times, whatever the images hold.

It reads what SAM predicts of all masks, then areas and boxes of those above the threshold, and last the few masks that
survive the rules of the generator. Until then masks stay on the GPU, as SAM's low-resolution logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.schemas.config import MasksConfig
from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.packed_masks import MASK_THRESHOLD, inclusive_boxes, pack_bits
from pseudoris.workers.masks.promptable import PointGrid
from pseudoris.workers.masks.sam_model import PromptableSam

# Bytes of logits that are upsampled at once. Results do not depend on it.
_UPSAMPLE_BYTES = 2 * 2**30

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BatchCrop:
    """A crop: the image (H, W, 3) uint8 RGB that it is cut from, where, and the grid of points on it."""

    image: NDArray[np.uint8]
    box: Box
    grid: PointGrid


@dataclass(frozen=True, slots=True)
class MeasuredMasks:
    """Masks of a crop that are stable enough, in host memory, in its frame; the fields are those of `MaskCandidates`.

    Attributes:
        rows: (N,) int64, their numbers in the batch.
    """

    rows: torch.Tensor
    boxes_px: torch.Tensor
    predicted_iou: torch.Tensor
    stability: torch.Tensor


class MaskBatch:
    """What SAM answers to the points on some crops."""

    def __init__(self, model: PromptableSam, crops: Sequence[BatchCrop], config: MasksConfig) -> None:
        """Ask it, and choose the masks whose predicted IoU is above the threshold."""
        self._model, self._crops, self._config = model, crops, config
        pixels = [np.ascontiguousarray(crop.image[y0:y1, x0:x1]) for crop in crops for x0, y0, x1, y1 in [crop.box]]
        grids = [crop.grid for crop in crops]
        self._encoded, logits, predicted_iou = model.answer_together(pixels, grids, config.points_per_batch)
        self._low = logits.flatten(0, 1)
        (predicted,) = to_host(predicted_iou.flatten())
        self._predicted_iou: NDArray[np.float32] = predicted
        least = config.pred_iou_thresh
        is_kept = predicted > least if least > 0 else np.ones_like(predicted, dtype=np.bool_)
        ends = predicted_iou.shape[1] * np.cumsum([0, *map(len, grids)])
        self._rows = [start + np.flatnonzero(is_kept[start:end]) for start, end in pairwise(ends.tolist())]
        self._num_changes: dict[int, int] = {}

    def measured(self) -> list[MeasuredMasks]:
        """Return the masks of each crop; none is empty."""
        parts = [self._figures(logits) for _, _, logits in self._upsampled(self._rows)]
        figures = torch.from_numpy(to_host(torch.cat(parts))[0] if parts else np.zeros((0, 7), dtype=np.int64))
        self._num_changes = dict(zip(np.concatenate(self._rows).tolist(), figures[:, 2].tolist(), strict=True))
        found = []
        of_crops = torch.split(figures, [len(rows) for rows in self._rows])
        for rows, of_crop in zip(map(torch.from_numpy, self._rows), of_crops, strict=True):
            stability, is_kept = of_crop[:, 0] / of_crop[:, 1], of_crop[:, 2] > 0
            if self._config.stability_score_thresh > 0:
                is_kept &= stability >= self._config.stability_score_thresh
            predicted_iou = torch.from_numpy(self._predicted_iou)[rows[is_kept]]
            found.append(MeasuredMasks(rows[is_kept], of_crop[is_kept, 3:], predicted_iou, stability[is_kept]))
        return found

    def _figures(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the areas of both stability thresholds, the changes along the columns, and the boxes, (N, 7) int64."""
        offset, masks = self._config.stability_score_offset, logits > MASK_THRESHOLD
        areas = [(logits > MASK_THRESHOLD + each).flatten(1).sum(1) for each in (offset, -offset)]
        return torch.cat([torch.stack([*areas, rle.changes(masks).sum(1)], 1), inclusive_boxes(masks)], 1)

    def _upsampled(self, rows: Sequence[Int64Array]) -> Iterator[tuple[int, Int64Array, torch.Tensor]]:
        """Yield a crop, some of its rows, and their logits (N, H, W) float32 at its size: as many at once as fit."""
        on_gpu, first = to_device(np.concatenate(rows), self._low.device), 0
        for number, (crop, of_crop) in enumerate(zip(self._encoded, rows, strict=True)):
            step = max(1, _UPSAMPLE_BYTES // (4 * max(self._model.side**2, crop.size[0] * crop.size[1])))
            for start in range(0, len(of_crop), step):
                some = of_crop[start : start + step]
                low = self._low[on_gpu[first : first + len(some)]].float()
                first += len(some)
                yield number, some, self._model.upsample(low, crop)

    def masks(self, rows: Int64Array, *, are_packed: bool) -> dict[int, Any]:
        """Return masks by their rows, in the frames of their images: as run-length codes, or as packed bits."""
        sent, parts = [], []
        chosen = [of_crop[np.isin(of_crop, rows)] for of_crop in self._rows]
        for number, some, logits in self._upsampled(chosen):
            (x0, y0, x1, y1), (height, width) = self._crops[number].box, self._crops[number].image.shape[:2]
            masks = F.pad(logits > MASK_THRESHOLD, (x0, width - x1, y0, height - y1))
            parts.append((some, height * width))
            if are_packed:
                sent.append(pack_bits(masks))
                continue
            # In a larger frame each column of a mask may begin and end a run more.
            further = 2 * (x1 - x0) * len(some) if masks.shape != logits.shape else 0
            most = further + sum(self._num_changes[row] for row in some.tolist())
            sent.append(torch.nonzero_static(rle.changes(masks).flatten(), size=most, fill_value=-1)[:, 0])
        found: dict[int, Any] = {}
        for (some, num_pixels), got in zip(parts, to_host(*sent) if sent else (), strict=True):
            of_some = got if are_packed else rle.encode_changes(got[got >= 0], len(some), num_pixels)
            found.update(zip(some.tolist(), of_some, strict=True))
        return found
