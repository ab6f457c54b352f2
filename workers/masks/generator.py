"""SAM's automatic mask generation (prompts on a grid, filters, box NMS), equal to `SamAutomaticMaskGenerator`.

In each crop, masks must have a predicted IoU strictly above its threshold, a stability at or above its threshold, and
must not end at an inner edge of the crop; then box NMS by predicted IoU. Across crops, NMS prefers masks of small
crops. Last, small holes are filled and small islands dropped.

Candidates are a table of tensors: masks are packed bits, eight pixels a byte. Of several hundred a few survive, and
only these are unpacked.

Source: Kirillov et al., Segment Anything, appendix B; segment-anything 1.0, automatic_mask_generator.py and
    utils/amg.py. scipy labels the regions instead of OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from segment_anything.modeling import Sam
from torchvision.ops import nms

from pseudoris.schemas.config import MasksConfig
from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.masks import rle, sam_model
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, SharedImage
from pseudoris.workers.masks.proposals import Proposals
from pseudoris.workers.masks.sam_model import PointGrid, crop_boxes, layer_grids

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
        encoded = sam_model.encode_crops(self._sam, pixels, self._dtype)
        parts = [
            self._process_crop(crop, self._grids[layer], box, size)
            for crop, (box, layer) in zip(encoded, crops, strict=True)
        ]
        found = concatenate(parts)
        if len(crops) > 1:
            found = found.take(self._nms_across(parts, [box for box, _ in crops]))
        if self._config.min_mask_region_area > 0:
            found = self._without_speckle(found)
        return encode_proposals(found)

    def _process_crop(
        self, crop: sam_model.EncodedCrop, grid: PointGrid, box: Box, size: tuple[int, int]
    ) -> MaskCandidates:
        """Return the mask candidates of one crop after its NMS, in the frame of the image (H, W)."""
        image = self._decode.share(crop.embedding)
        points = to_device(sam_model.to_input_frame(grid, crop), crop.embedding.device)
        batches = [
            self._process_points(crop, image, some) for some in torch.split(points, self._config.points_per_batch)
        ]
        found = concatenate(batches)
        found = found.take(~_is_cut_off(found.boxes_px, box, size))
        found = found.take(nms(found.boxes_px.float(), found.predicted_iou, self._config.box_nms_thresh))
        return found.placed(box, size)

    def _process_points(self, crop: sam_model.EncodedCrop, image: SharedImage, points: torch.Tensor) -> MaskCandidates:
        low, predicted_iou = self._decode(image, points, min_predicted_iou=self._config.pred_iou_thresh)
        side = self._sam.image_encoder.img_size
        held = 4 * max(side**2, crop.size[0] * crop.size[1])
        step = max(1, _UPSAMPLE_BYTES[low.device.type] // held)
        parts = zip(torch.split(low, step), torch.split(predicted_iou, step), strict=True)
        return concatenate([self._measure(sam_model.upsample(few, crop, side), iou) for few, iou in parts])

    def _measure(self, logits: torch.Tensor, predicted_iou: torch.Tensor) -> MaskCandidates:
        return measure(
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
        found = concatenate(parts)
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
