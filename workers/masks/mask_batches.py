"""The masks of several images at once, for a GPU: the CPU waits for it three times, whatever the images hold.

It reads what SAM predicts of all masks, then areas and boxes of those above the threshold, and last the few masks that
survive the rules of the generator. Until then masks stay on the GPU, as SAM's low-resolution logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pseudoris.schemas.config import MasksConfig
from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.mask_candidates import MASK_THRESHOLD, MaskCandidates, inclusive_boxes
from pseudoris.workers.masks.promptable import PointGrid
from pseudoris.workers.masks.sam_model import PromptableSam

# Bytes of logits that are upsampled at once. Results do not depend on it.
_UPSAMPLE_BYTES = 2 * 2**30

Int64Array = NDArray[np.int64]


class MaskBatch:
    """What SAM answers to the points on the crops of some images."""

    def __init__(
        self,
        model: PromptableSam,
        images: Sequence[NDArray[np.uint8]],
        crops: Sequence[Sequence[tuple[Box, int]]],
        grids: Sequence[PointGrid],
        config: MasksConfig,
    ) -> None:
        """Ask it, and choose the masks whose predicted IoU is above the threshold; arguments as of `crop_boxes`."""
        self._model, self._config = model, config
        self._places = [(image, *crop) for image, of_image in zip(images, crops, strict=True) for crop in of_image]
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for image, (x0, y0, x1, y1), _ in self._places]
        points = [grids[layer] for *_, layer in self._places]
        self._encoded, logits, predicted_iou = model.answer_together(pixels, points, config.points_per_batch)
        self._low = logits.flatten(0, 1)
        (predicted,) = to_host(predicted_iou.flatten())
        self._predicted_iou = torch.from_numpy(predicted)
        least = config.pred_iou_thresh
        is_kept = predicted > least if least > 0 else np.ones_like(predicted, dtype=np.bool_)
        ends = predicted_iou.shape[1] * np.cumsum([0, *map(len, points)])
        self._rows = [start + np.flatnonzero(is_kept[start:end]) for start, end in pairwise(ends.tolist())]
        self._num_changes: dict[int, int] = {}

    def measured(self) -> list[MaskCandidates]:
        """Return the masks of each crop that are stable enough, in host memory; none is empty."""
        parts = [self._figures(logits) for _, _, logits in self._upsampled(self._rows)]
        figures = torch.from_numpy(to_host(torch.cat(parts))[0] if parts else np.zeros((0, 7), dtype=np.int64))
        self._num_changes = dict(zip(np.concatenate(self._rows).tolist(), figures[:, 2].tolist(), strict=True))
        found = []
        of_crops = torch.split(figures, [len(rows) for rows in self._rows])
        for crop, rows, of_crop in zip(self._encoded, map(torch.from_numpy, self._rows), of_crops, strict=True):
            stability, is_kept = of_crop[:, 0] / of_crop[:, 1], of_crop[:, 2] > 0
            if self._config.stability_score_thresh > 0:
                is_kept &= stability >= self._config.stability_score_thresh
            every = MaskCandidates(crop.size, rows[:, None], of_crop[:, 3:], self._predicted_iou[rows], stability)
            found.append(every.take(is_kept))
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
            # Masks are placed in the frame of the image, which may be much larger than the crop.
            height, width, _ = self._places[number][0].shape
            step = max(1, _UPSAMPLE_BYTES // (4 * max(self._model.side**2, height * width)))
            for start in range(0, len(of_crop), step):
                some = of_crop[start : start + step]
                low = self._low[on_gpu[first : first + len(some)]].float()
                first += len(some)
                yield number, some, self._model.upsample(low, crop)

    def codes(self, rows: Int64Array) -> dict[int, str]:
        """Return the run-length codes of masks by their rows, in the frames of their images."""
        sent, parts = [], []
        chosen = [of_crop[np.isin(of_crop, rows)] for of_crop in self._rows]
        for number, some, logits in self._upsampled(chosen):
            image, (x0, y0, x1, y1), _ = self._places[number]
            masks = F.pad(logits > MASK_THRESHOLD, (x0, image.shape[1] - x1, y0, image.shape[0] - y1))
            # In a larger frame each column of a mask may begin and end a run more.
            further = 2 * (x1 - x0) * len(some) if masks.shape != logits.shape else 0
            most = further + sum(self._num_changes[row] for row in some.tolist())
            sent.append(torch.nonzero_static(rle.changes(masks).flatten(), size=most, fill_value=-1)[:, 0])
            parts.append((some, masks[0].numel()))
        found: dict[int, str] = {}
        for (some, num_pixels), positions in zip(parts, to_host(*sent) if sent else (), strict=True):
            of_some = rle.encode_changes(positions[positions >= 0], len(some), num_pixels)
            found.update(zip(some.tolist(), of_some, strict=True))
        return found
