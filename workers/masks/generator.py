"""SAM's automatic mask generation: prompts on a grid, filters, box NMS; equal to `SamAutomaticMaskGenerator`.

Per crop: predicted IoU (strictly above), stability (at or above), no mask at an inner edge of the crop, box
NMS by predicted IoU. Then NMS across crops, small crops first; holes and islands; run-length encoding.
Source: Kirillov et al., Segment Anything, appendix B; segment-anything 1.0, automatic_mask_generator.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torchvision.ops import nms

from schemas.config import MasksConfig
from schemas.shard import Box
from workers.device import to_device
from workers.masks import candidates, prompting
from workers.masks.candidates import Candidates
from workers.masks.decoding import PromptDecoder, SharedImage
from workers.masks.grids import PointGrid, crop_boxes, layer_grids
from workers.masks.proposals import Proposals, encode_proposals
from workers.masks.regions import remove_small_regions

# Boxes this close to an edge of their crop are taken for cut off. Source: amg.py, is_box_near_crop_edge.
_EDGE_TOLERANCE_PX = 20
# Logits that are upsampled at once: on a CPU few enough to stay in its caches. It decides no result.
_UPSAMPLE_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}


class MaskGenerator:
    """A callable image -> `Proposals` over one SAM."""

    def __init__(self, sam: Sam, config: MasksConfig, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep the model, in eval mode on its device; `dtype` is what encoder and transformer compute in.

        Raises:
            ConfigError: A crop layer would have no points.
        """
        self._sam = sam
        self._config = config
        self._dtype = dtype
        self._decode = PromptDecoder(sam, dtype=dtype)
        self._grids = layer_grids(config)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Proposals:
        """Return the masks of an upright image (H, W, 3) uint8 RGB, in NMS order; N may be 0."""
        size = (image.shape[0], image.shape[1])
        crops = crop_boxes(size, self._config)
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for (x0, y0, x1, y1), _ in crops]
        encoded = prompting.encode_crops(self._sam, pixels, self._dtype)
        parts = [
            self._process_crop(crop, self._grids[layer], box, size)
            for crop, (box, layer) in zip(encoded, crops, strict=True)
        ]
        found = candidates.concatenate(parts)
        if len(crops) > 1:
            found = found.take(self._nms_across(parts, [box for box, _ in crops]))
        if self._config.min_mask_region_area > 0:
            found = self._without_speckle(found)
        return encode_proposals(found)

    def _process_crop(
        self, crop: prompting.EncodedCrop, grid: PointGrid, box: Box, size: tuple[int, int]
    ) -> Candidates:
        """Return what one crop's NMS leaves, in the frame of its image (H, W)."""
        image = self._decode.share(crop.embedding)
        points = to_device(prompting.to_input_frame(grid, crop), crop.embedding.device)
        batches = [
            self._process_points(crop, image, some) for some in torch.split(points, self._config.points_per_batch)
        ]
        found = candidates.concatenate(batches)
        found = found.take(~_is_cut_off(found.boxes_px, box, size))
        found = found.take(nms(found.boxes_px.float(), found.predicted_iou, self._config.box_nms_thresh))
        return found.placed(box, size)

    def _process_points(self, crop: prompting.EncodedCrop, image: SharedImage, points: torch.Tensor) -> Candidates:
        low, predicted_iou = self._decode(image, points, min_predicted_iou=self._config.pred_iou_thresh)
        side = self._sam.image_encoder.img_size
        held = 4 * max(side**2, crop.size[0] * crop.size[1])
        step = max(1, _UPSAMPLE_BYTES[low.device.type] // held)
        parts = zip(torch.split(low, step), torch.split(predicted_iou, step), strict=True)
        return candidates.concatenate([self._measure(prompting.upsample(few, crop, side), iou) for few, iou in parts])

    def _measure(self, logits: torch.Tensor, predicted_iou: torch.Tensor) -> Candidates:
        return candidates.measure(
            logits,
            predicted_iou,
            stability_offset=self._config.stability_score_offset,
            min_stability=self._config.stability_score_thresh,
        )

    def _nms_across(self, parts: Sequence[Candidates], crops: Sequence[Box]) -> torch.Tensor:
        """Return the rows of all parts that survive NMS between crops: the smaller the crop, the finer its masks."""
        boxes = torch.cat([part.boxes_px for part in parts])
        areas = torch.tensor([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in crops])
        scores = (1 / areas).repeat_interleave(torch.tensor([len(part) for part in parts]))
        kept: torch.Tensor = nms(boxes.float(), scores.to(boxes.device), self._config.crop_nms_thresh)
        return kept

    def _without_speckle(self, found: Candidates) -> Candidates:
        """Remove holes and islands, then the doubles that this makes; masks that needed no change win."""
        parts, is_unchanged = [], []
        for row in range(len(found)):
            part, has_changed = self._without_regions(found.take(torch.tensor([row], device=found.bits.device)))
            parts.append(part)
            is_unchanged.append(not has_changed)
        if not parts:
            return found
        found = candidates.concatenate(parts)
        scores = torch.tensor(is_unchanged, device=found.bits.device).float()
        threshold = max(self._config.box_nms_thresh, self._config.crop_nms_thresh)
        return found.take(nms(found.boxes_px.float(), scores, threshold))

    def _without_regions(self, one: Candidates) -> tuple[Candidates, bool]:
        mask, has_changed = remove_small_regions(one.masks()[0].cpu().numpy(), self._config.min_mask_region_area)
        return one.with_masks(torch.from_numpy(mask)[None].to(one.bits.device)) if has_changed else one, has_changed


def _is_cut_off(boxes_px: torch.Tensor, crop: Box, size: tuple[int, int]) -> torch.Tensor:
    """Return which boxes (N, 4), in the crop's frame, end at an edge of the crop that is none of the image's."""
    x0, y0, _, _ = crop
    boxes = boxes_px + torch.tensor([x0, y0, x0, y0], device=boxes_px.device)
    edges = torch.tensor(crop, device=boxes.device)
    borders = torch.tensor([0, 0, size[1], size[0]], device=boxes.device)
    is_at_edge = (boxes - edges).abs() <= _EDGE_TOLERANCE_PX
    is_at_border = (boxes - borders).abs() <= _EDGE_TOLERANCE_PX
    return (is_at_edge & ~is_at_border).any(dim=1)
