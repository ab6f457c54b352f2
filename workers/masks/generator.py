"""SAM's automatic mask generation (prompts on a grid, filters, box NMS), equal to `SamAutomaticMaskGenerator`.

In each crop, masks must have a predicted IoU strictly above its threshold, a stability at or above its threshold, and
must not end at an inner edge of the crop; then box NMS by predicted IoU. Across crops, NMS prefers masks of small
crops. Last, small holes are filled and small islands dropped.

Source: Kirillov et al., Segment Anything, appendix B; segment-anything 1.0, automatic_mask_generator.py and
    utils/amg.py. scipy labels the regions instead of OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from segment_anything.modeling import Sam
from torchvision.ops import nms

from pseudoris.schemas.config import MasksConfig
from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_device
from pseudoris.workers.masks import mask_candidates, sam_frames
from pseudoris.workers.masks.mask_candidates import MaskCandidates
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, SharedImage
from pseudoris.workers.masks.proposals import Proposals, encode_proposals
from pseudoris.workers.masks.sam_frames import PointGrid, crop_boxes, layer_grids

# A box this close to an edge of its crop counts as cut off. Source: amg.py, is_box_near_crop_edge.
_EDGE_TOLERANCE_PX = 20
# Bytes of logits that are upsampled at once. On a CPU they fit into its caches. Results do not depend on it.
_UPSAMPLE_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
# Pixels that share an edge or a corner belong to one region.
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)

Mask = NDArray[np.bool_]


class MaskGenerator:
    """A callable image -> `Proposals` over one SAM."""

    def __init__(self, sam: Sam, config: MasksConfig, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep the model, which is in eval mode on its device; encoder and transformer compute in `dtype`.

        Raises:
            ConfigError: A crop layer would have no points.
        """
        self._sam = sam
        self._config = config
        self._dtype = dtype
        self._decode = SamPromptDecoder(sam, dtype=dtype)
        self._grids = layer_grids(config)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Proposals:
        """Return the masks of an upright image (H, W, 3) uint8 RGB, in NMS order; N may be 0."""
        size = (image.shape[0], image.shape[1])
        crops = crop_boxes(size, self._config)
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for (x0, y0, x1, y1), _ in crops]
        encoded = sam_frames.encode_crops(self._sam, pixels, self._dtype)
        parts = [
            self._process_crop(crop, self._grids[layer], box, size)
            for crop, (box, layer) in zip(encoded, crops, strict=True)
        ]
        found = mask_candidates.concatenate(parts)
        if len(crops) > 1:
            found = found.take(self._nms_across(parts, [box for box, _ in crops]))
        if self._config.min_mask_region_area > 0:
            found = self._without_speckle(found)
        return encode_proposals(found)

    def _process_crop(
        self, crop: sam_frames.EncodedCrop, grid: PointGrid, box: Box, size: tuple[int, int]
    ) -> MaskCandidates:
        """Return the mask candidates of one crop after its NMS, in the frame of the image (H, W)."""
        image = self._decode.share(crop.embedding)
        points = to_device(sam_frames.to_input_frame(grid, crop), crop.embedding.device)
        batches = [
            self._process_points(crop, image, some) for some in torch.split(points, self._config.points_per_batch)
        ]
        found = mask_candidates.concatenate(batches)
        found = found.take(~_is_cut_off(found.boxes_px, box, size))
        found = found.take(nms(found.boxes_px.float(), found.predicted_iou, self._config.box_nms_thresh))
        return found.placed(box, size)

    def _process_points(self, crop: sam_frames.EncodedCrop, image: SharedImage, points: torch.Tensor) -> MaskCandidates:
        low, predicted_iou = self._decode(image, points, min_predicted_iou=self._config.pred_iou_thresh)
        side = self._sam.image_encoder.img_size
        held = 4 * max(side**2, crop.size[0] * crop.size[1])
        step = max(1, _UPSAMPLE_BYTES[low.device.type] // held)
        parts = zip(torch.split(low, step), torch.split(predicted_iou, step), strict=True)
        return mask_candidates.concatenate(
            [self._measure(sam_frames.upsample(few, crop, side), iou) for few, iou in parts]
        )

    def _measure(self, logits: torch.Tensor, predicted_iou: torch.Tensor) -> MaskCandidates:
        return mask_candidates.measure(
            logits,
            predicted_iou,
            stability_offset=self._config.stability_score_offset,
            min_stability=self._config.stability_score_thresh,
        )

    def _nms_across(self, parts: Sequence[MaskCandidates], crops: Sequence[Box]) -> torch.Tensor:
        """Return the rows of all parts that survive NMS between crops; masks of smaller crops win."""
        boxes = torch.cat([part.boxes_px for part in parts])
        areas = torch.tensor([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in crops])
        scores = (1 / areas).repeat_interleave(torch.tensor([len(part) for part in parts]))
        kept: torch.Tensor = nms(boxes.float(), to_device(scores, boxes.device), self._config.crop_nms_thresh)
        return kept

    def _without_speckle(self, found: MaskCandidates) -> MaskCandidates:
        """Remove holes and islands, then the doubles that result, on the CPU; unchanged masks win."""
        # scipy labels regions there.
        found = found.in_host_memory()
        parts, is_unchanged = [], []
        for row in range(len(found)):
            part, has_changed = self._without_regions(found.take(torch.tensor([row])))
            parts.append(part)
            is_unchanged.append(not has_changed)
        if not parts:
            return found
        found = mask_candidates.concatenate(parts)
        scores = torch.tensor(is_unchanged).float()
        threshold = max(self._config.box_nms_thresh, self._config.crop_nms_thresh)
        return found.take(nms(found.boxes_px.float(), scores, threshold))

    def _without_regions(self, one: MaskCandidates) -> tuple[MaskCandidates, bool]:
        mask, has_changed = remove_small_regions(one.masks()[0].numpy(), self._config.min_mask_region_area)
        return one.with_masks(torch.from_numpy(mask)[None]) if has_changed else one, has_changed


def _is_cut_off(boxes_px: torch.Tensor, crop: Box, size: tuple[int, int]) -> torch.Tensor:
    """Return which boxes (N, 4), in the crop's frame, end at a crop edge that is inside the image."""
    x0, y0, _, _ = crop
    frame = torch.tensor([[x0, y0, x0, y0], crop, [0, 0, size[1], size[0]]])
    start, edges, borders = to_device(frame, boxes_px.device).unbind()
    boxes = boxes_px + start
    is_at_edge = (boxes - edges).abs() <= _EDGE_TOLERANCE_PX
    is_at_border = (boxes - borders).abs() <= _EDGE_TOLERANCE_PX
    return (is_at_edge & ~is_at_border).any(dim=1)


def remove_small_regions(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    """Return the mask without holes and islands below `min_area_px`, and whether anything changed.

    A hole is any region of background, also at the image's border. If all islands are small, the largest stays (the
    first in reading order among equals), so that a mask with pixels never becomes empty.

    Args:
        mask: (H, W) bool; not changed.
        min_area_px: Regions of at least this many pixels stay.
    """
    filled, has_filled = _fill_holes(mask, min_area_px)
    cleaned, has_dropped = _drop_islands(filled, min_area_px)
    return cleaned, has_filled or has_dropped


def _fill_holes(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    labels, sizes = _regions(~mask)
    is_small = sizes < min_area_px
    if not is_small.any():
        return mask, False
    return np.concatenate([[True], is_small])[labels], True


def _drop_islands(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    labels, sizes = _regions(mask)
    is_large = sizes >= min_area_px
    if is_large.all():
        return mask, False
    if not is_large.any():
        is_large[np.argmax(sizes)] = True
    return np.concatenate([[False], is_large])[labels], True


def _regions(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return labels (H, W), 0 outside the mask, and the pixels of the regions 1, 2 and so on."""
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return labels, np.bincount(labels.ravel())[1:]
