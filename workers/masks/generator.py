"""The first stage by SAM: automatic mask generation (prompts on a grid, filters, box NMS), then reduction to objects.

The generator equals `SamAutomaticMaskGenerator`. In each crop, masks must have a predicted IoU strictly above its
threshold, a stability at or above its threshold, and must not end at an inner edge of the crop; then box NMS by
predicted IoU. Across crops, NMS prefers masks of small crops. Last, small holes are filled and small islands dropped.

Candidates are a table of tensors: masks are packed bits, eight pixels a byte. Of several hundred a few survive, and
only these are unpacked.

Source: Kirillov et al., Segment Anything, appendix B; segment-anything 1.0, automatic_mask_generator.py and
    utils/amg.py. scipy labels the regions instead of OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torchvision.ops import nms

from pseudoris.schemas.config import ComputeConfig, MasksConfig
from pseudoris.schemas.shard import Box, Shard, ShardImage
from pseudoris.workers.crops.shard_pixels import prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.promptable import (
    EncodedCrop,
    PointGrid,
    PromptableModel,
    crop_boxes,
    layer_grids,
    to_input_frame,
)
from pseudoris.workers.masks.proposals import Proposals, build_prior, mask_records
from pseudoris.workers.masks.sam_model import PromptableSam, load_sam
from pseudoris.workers.stages import STAGE_PROPOSE, sam_digest

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

    def take(self, rows: torch.Tensor) -> MaskCandidates:
        """Return the mask candidates at `rows` (indices in a new order, or a bool mask)."""
        # An index of bools selects the same, but the CPU waits for a GPU at each use of it.
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return MaskCandidates(
            self.size, self.bits[rows], self.boxes_px[rows], self.predicted_iou[rows], self.stability[rows]
        )

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
        """Yield the mask candidates in order, in parts whose masks at `size` (H, W) fit in memory; at least one part.

        If there are no mask candidates, yield one empty part.
        """
        step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
        for first in range(0, max(1, len(self.bits)), step):
            yield self.take(torch.arange(first, min(first + step, len(self.bits)), device=self.bits.device))


def concatenate(parts: Sequence[MaskCandidates]) -> MaskCandidates:
    """Return the mask candidates of at least one part, all in one frame, as one table in the order of the parts."""
    return MaskCandidates(
        parts[0].size,
        torch.cat([part.bits for part in parts]),
        torch.cat([part.boxes_px for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
    )


def measure(logits: torch.Tensor, predicted_iou: torch.Tensor, config: MasksConfig) -> MaskCandidates:
    """Return the mask candidates with the given mask logits (N, H, W) float32, at the crop's original size.

    Stability is the IoU of each mask thresholded `stability_score_offset` above with the same thresholded so far below.
    The first lies inside the second, so their areas are the intersection and the union. Those below the threshold are
    dropped first; a threshold of 0 or less keeps all, as in SAM.
    """
    intersections, unions = (
        (logits > MASK_THRESHOLD + offset).flatten(1).sum(1, dtype=torch.int32)
        for offset in (config.stability_score_offset, -config.stability_score_offset)
    )
    stability = intersections / unions
    if config.stability_score_thresh > 0:
        rows = (stability >= config.stability_score_thresh).nonzero()[:, 0]
        logits, predicted_iou, stability = logits[rows], predicted_iou[rows], stability[rows]
    masks = logits > MASK_THRESHOLD
    height, width = masks.shape[-2:]
    return MaskCandidates((height, width), pack_bits(masks), inclusive_boxes(masks), predicted_iou, stability)


def measured(
    low: torch.Tensor,
    predicted_iou: torch.Tensor,
    upsample: Callable[[torch.Tensor], torch.Tensor],
    num_pixels: int,
    config: MasksConfig,
) -> Iterator[MaskCandidates]:
    """Yield what `measure` makes of low-resolution logits, of as many at once as fit at `num_pixels` a mask."""
    step = max(1, _UPSAMPLE_BYTES[low.device.type] // (4 * num_pixels))
    for few, iou in zip(torch.split(low, step), torch.split(predicted_iou, step), strict=True):
        yield measure(upsample(few), iou, config)


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


# A box this close to an edge of its crop counts as cut off. Source: amg.py, is_box_near_crop_edge.
_EDGE_TOLERANCE_PX = 20
# Bytes of logits that are upsampled at once. On a CPU they fit into its caches. Results do not depend on it.
_UPSAMPLE_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
# Pixels that share an edge or a corner belong to one region.
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)

Mask = NDArray[np.bool_]


class MaskGenerator:
    """A callable image -> `Proposals` over one promptable model."""

    def __init__(self, model: PromptableModel, config: MasksConfig) -> None:
        self._model, self._config = model, config
        self._grids = layer_grids(config)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Proposals:
        """Return the masks of an upright image (H, W, 3) uint8 RGB, in NMS order; N may be 0."""
        size = (image.shape[0], image.shape[1])
        crops = crop_boxes(size, self._config)
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for (x0, y0, x1, y1), _ in crops]
        encoded = self._model.encode(pixels)
        parts = [
            self._process_crop(crop, self._grids[layer], box, size)
            for crop, (box, layer) in zip(encoded, crops, strict=True)
        ]
        found = concatenate(parts)
        if len(crops) > 1:
            # NMS between crops: masks of smaller crops win.
            areas = torch.tensor([(x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), _ in crops])
            scores = (1 / areas).repeat_interleave(torch.tensor([len(part.bits) for part in parts]))
            boxes = found.boxes_px.float()
            found = found.take(nms(boxes, to_device(scores, boxes.device), self._config.crop_nms_thresh))
        if not self._config.min_mask_region_area or not len(found.bits):
            return encode_proposals(found)
        # Holes and islands go, then the doubles that result; unchanged masks win.
        found, is_unchanged = without_small_regions(found, self._config.min_mask_region_area)
        threshold = max(self._config.box_nms_thresh, self._config.crop_nms_thresh)
        return encode_proposals(found.take(nms(found.boxes_px.float(), is_unchanged.float(), threshold)))

    def _process_crop(self, crop: EncodedCrop, grid: PointGrid, box: Box, size: tuple[int, int]) -> MaskCandidates:
        """Return the mask candidates of one crop after its NMS, in the frame of the image (H, W)."""
        image, device = self._model.share(crop), crop.embedding.device
        num_pixels = max(self._model.side**2, crop.size[0] * crop.size[1])
        parts: list[MaskCandidates] = []
        points = to_device(to_input_frame(grid, crop), device)
        for some in torch.split(points, self._config.points_per_batch):
            low, predicted_iou = self._model.decode(image, some, min_predicted_iou=self._config.pred_iou_thresh)
            parts += measured(low, predicted_iou, lambda few: self._model.upsample(few, crop), num_pixels, self._config)
        found = concatenate(parts)
        # Masks that end at a crop's edge inside the image are cut off.
        x0, y0, _, _ = box
        frame = torch.tensor([[x0, y0, x0, y0], box, [0, 0, size[1], size[0]]])
        start, edges, borders = to_device(frame, device).unbind()
        is_at_edge, is_at_border = (
            (found.boxes_px + start - each).abs() <= _EDGE_TOLERANCE_PX for each in (edges, borders)
        )
        found = found.take(~(is_at_edge & ~is_at_border).any(dim=1))
        found = found.take(nms(found.boxes_px.float(), found.predicted_iou, self._config.box_nms_thresh))
        return found.placed(box, size)


def without_small_regions(found: MaskCandidates, min_area_px: int) -> tuple[MaskCandidates, torch.Tensor]:
    """Return at least one mask candidate each without small regions, on the CPU, and which are unchanged, (N,) bool."""
    # scipy labels regions.
    columns = to_host(found.bits, found.boxes_px, found.predicted_iou, found.stability)
    found = MaskCandidates(found.size, *map(torch.from_numpy, columns))
    parts, is_unchanged = [], []
    for row in range(len(found.bits)):
        one = found.take(torch.tensor([row]))
        mask, has_changed = remove_small_regions(unpack_bits(one.bits, one.size)[0].numpy(), min_area_px)
        parts.append(one.with_masks(torch.from_numpy(mask)[None]) if has_changed else one)
        is_unchanged.append(not has_changed)
    return concatenate(parts), torch.tensor(is_unchanged)


def remove_small_regions(mask: Mask, min_area_px: int) -> tuple[Mask, bool]:
    """Return the mask without holes and islands below `min_area_px`, and whether anything changed.

    A hole is any region of background, also at the image's border. If all islands are small, the largest stays (the
    first in reading order among equals), so that a mask with pixels never becomes empty.

    Args:
        mask: (H, W) bool; not changed.
        min_area_px: Regions of at least this many pixels stay.
    """
    # Labels are 0 outside and 1, 2 and so on for the regions.
    labels, _ = ndimage.label(~mask, structure=_EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    is_small = sizes < min_area_px
    has_filled = bool(is_small.any())
    if has_filled:
        mask = np.concatenate([[True], is_small])[labels]
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    is_large = sizes >= min_area_px
    if is_large.all():
        return mask, has_filled
    if not is_large.any():
        is_large[np.argmax(sizes)] = True
    return np.concatenate([[False], is_large])[labels], True


def encode_proposals(found: MaskCandidates) -> Proposals:
    """Return mask candidates in the frame of a whole image as proposals in the same order, without empty masks.

    SAM itself keeps an empty mask only if the stability threshold is 0.
    """
    counts = [text for chunk in found.chunks(found.size) for text in rle.encode(unpack_bits(chunk.bits, chunk.size))]
    return Proposals.of_masks(found.size, counts, *to_host(found.predicted_iou, found.stability))


class SamProposer:
    """Proposes masks with SAM's automatic generator and reduces them to objects.

    A mask's index, and so its id, is its position in the generator's output before the reduction. So a mask keeps its
    id under another reduction or prior.
    """

    weights_digest = staticmethod(sam_digest)

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Load the model and the instance prior."""
        self._device = prepare_device(compute)
        self._generate = MaskGenerator(self._load(config, compute), config)
        self._prior = build_prior(config, self._device)

    def _load(self, config: MasksConfig, compute: ComputeConfig) -> PromptableModel:
        sam = load_sam(config.architecture, config.weights).to(self._device)
        if compute.is_compiled:
            compile_tower(sam.image_encoder)
        return PromptableSam(sam, dtype=compute_dtype(compute))

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined; () if no mask survives."""
        sound = [image for image in shard.images if not image.failure]
        with prefetched_pixels(sound, self._device) as decode:
            return apply_to_images(shard, STAGE_PROPOSE, lambda image: self._propose(image, decode(image)))

    def _propose(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ShardImage:
        proposals = self._generate(pixels)
        kept = self._prior(image, pixels, proposals)
        return replace(image, masks=mask_records(image.image_id, proposals, kept))
