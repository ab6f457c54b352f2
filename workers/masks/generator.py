"""The mask stage by SAM: automatic mask generation (prompts on a grid, filters, box NMS), then reduction to objects.

`workers/stages.py` builds `SamProposer`; `sam2_model.py` extends it.

Order, boxes and codes must equal those of `SamAutomaticMaskGenerator`: a mask's id is its place in that order. In each
crop, masks must have a predicted IoU strictly above its threshold, a stability at or above its threshold, and must not
end at an inner edge of the crop; then box NMS by predicted IoU. Across crops, NMS prefers masks of small crops. Last,
small holes are filled and small islands dropped.
Source: Kirillov et al., Segment Anything, appendix B; segment-anything 1.0, automatic_mask_generator.py and
    utils/amg.py. scipy labels the regions instead of OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torchvision.ops import nms

from pseudoris.primitives import rle
from pseudoris.schemas.config import ComputeConfig, MasksConfig, RunConfig
from pseudoris.schemas.shard import Box, Shard, ShardImage
from pseudoris.workers.crops.shard_pixels import Decode, prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.faults.quarantine import apply_to_groups, together_or_fewer
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.instances import build_prior, num_dropped
from pseudoris.workers.masks.prompt_decoder import Answers
from pseudoris.workers.masks.proposals import (
    MASK_THRESHOLD,
    MaskCandidates,
    Proposals,
    concatenate,
    inclusive_boxes,
    pack_bits,
    unpack_bits,
)
from pseudoris.workers.masks.sam_model import (
    PointGrid,
    PromptableModel,
    PromptableSam,
    crop_boxes,
    layer_grids,
    load_sam,
    to_input_frame,
)
from pseudoris.workers.stages import STAGE_PROPOSE, sam_digest


def measured(
    low: torch.Tensor,
    predicted_iou: torch.Tensor,
    upsample: Callable[[torch.Tensor], torch.Tensor],
    num_pixels: int,
    config: MasksConfig,
) -> Iterator[MaskCandidates]:
    """Yield the mask candidates of low-resolution logits, upsampled as many at once as fit at `num_pixels` a mask.

    Stability is the IoU of each mask thresholded `stability_score_offset` above with the same thresholded so far below.
    The first lies inside the second, so their areas are the intersection and the union. Those below the threshold are
    dropped first; a threshold of 0 or less keeps all, as in SAM.
    """
    step = max(1, _UPSAMPLE_BYTES[low.device.type] // (4 * num_pixels))
    for few, iou in zip(torch.split(low, step), torch.split(predicted_iou, step), strict=True):
        logits = upsample(few)
        intersections, unions = (
            (logits > MASK_THRESHOLD + offset).flatten(1).sum(1, dtype=torch.int32)
            for offset in (config.stability_score_offset, -config.stability_score_offset)
        )
        stability = intersections / unions
        if config.stability_score_thresh > 0:
            rows = (stability >= config.stability_score_thresh).nonzero()[:, 0]
            logits, iou, stability = logits[rows], iou[rows], stability[rows]
        masks = logits > MASK_THRESHOLD
        size = (masks.shape[1], masks.shape[2])
        yield MaskCandidates(size, pack_bits(masks), inclusive_boxes(masks), iou, stability)


# A box this close to an edge of its crop counts as cut off. Source: amg.py, is_box_near_crop_edge.
_EDGE_TOLERANCE_PX = 20
# This many bytes of logits are upsampled at once. On a CPU they fit into its caches. Results do not depend on it.
_UPSAMPLE_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
# A batch on a GPU holds at most `_MOST_IMAGES` images. For each of `points_per_batch`, which a smaller card has less
# of, but for `_MOST_POINTS` at most, it holds `_HELD_A_POINT` bytes of what prompts made of images, and upsamples
# `_UPSAMPLED_A_POINT` bytes of logits at once. None of it changes a bit.
_MOST_IMAGES, _MOST_POINTS, _HELD_A_POINT, _UPSAMPLED_A_POINT = 16, 64, 128 * 2**20, 32 * 2**20
# Pixels that share an edge or a corner belong to one region.
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


class MaskGenerator:
    """A callable image -> `Proposals` over one promptable model."""

    def __init__(self, model: PromptableModel, config: MasksConfig) -> None:
        self._model, self._config = model, config
        self._grids = layer_grids(config)
        # `together` should get at most this many images. The number falls when memory runs out.
        self.images_together = 1
        # Only a GPU gains from batches of images: one image fills a CPU's caches.
        self._sam = model if isinstance(model, PromptableSam) and model.fused else None
        if self._sam is not None:
            num_points = sum(4**layer * len(grid) for layer, grid in enumerate(self._grids))
            held = _held_points(self._sam, config)
            self.images_together = min(max(held // num_points, 1), _MOST_IMAGES)

    @torch.inference_mode()
    def together(self, images: Sequence[NDArray[np.uint8]]) -> list[Proposals]:
        """Return the masks of several images, each as it has them alone; if memory runs out, of fewer at a time."""
        if self._sam is None:
            return list(map(self, images))
        work = partial(self._of_batch, self._sam)
        lower = f"masks.points_per_batch (now {self._config.points_per_batch}) in a new run"
        return together_or_fewer(images, work, remember=partial(setattr, self, "images_together"), lower=lower)

    def _of_batch(self, sam: PromptableSam, images: Sequence[NDArray[np.uint8]]) -> list[Proposals]:
        crops = [crop_boxes((image.shape[0], image.shape[1]), self._config) for image in images]
        batch = MaskBatch(sam, images, crops, self._grids, self._config)
        measured, found, left = iter(zip(batch.num_predicted, batch.measured(), strict=True)), [], []
        for image, of_image in zip(images, crops, strict=True):
            size, parts, numbers = (image.shape[0], image.shape[1]), [], np.zeros(2, np.int64)
            for box, _ in of_image:
                num_predicted, stable = next(measured)
                numbers += num_predicted, len(stable.bits)
                part = self._survivors(stable, box, size)
                parts.append(replace(part, size=size, boxes_px=part.boxes_px + torch.tensor(box[:2] * 2)))
            found.append(self._merged(parts, of_image))
            left.append(numbers.tolist())
        codes, proposals = batch.codes(np.concatenate([each.bits[:, 0] for each in found])), []
        for each in found:
            counts = [codes[row] for row in each.bits[:, 0].tolist()]
            if self._config.min_mask_region_area and counts:
                bits = [pack_bits(torch.from_numpy(rle.decode([one], each.size))) for one in counts]
                proposals.append(self._encoded(replace(each, bits=torch.cat(bits))))
            else:
                proposals.append(Proposals.of_masks(each.size, counts, *to_host(each.predicted_iou, each.stability)))
        return [_with_left(each, *numbers) for each, numbers in zip(proposals, left, strict=True)]

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Proposals:
        """Return the masks of an upright image (H, W, 3) uint8 RGB, in NMS order; N may be 0."""
        if self._sam is not None:
            return self.together([image])[0]
        size = (image.shape[0], image.shape[1])
        crops = crop_boxes(size, self._config)
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for (x0, y0, x1, y1), _ in crops]
        parts, num_predicted, num_stable = [], 0, 0
        for crop, (box, layer) in zip(self._model.encode(pixels), crops, strict=True):
            shared, upsample = self._model.share(crop), partial(self._model.upsample, crop=crop)
            num_pixels = max(self._model.side**2, crop.size[0] * crop.size[1])
            found: list[MaskCandidates] = []
            points = to_device(to_input_frame(self._grids[layer], crop), crop.embedding.device)
            for some in torch.split(points, self._config.points_per_batch):
                low, predicted_iou = self._model.decode(shared, some, min_predicted_iou=self._config.pred_iou_thresh)
                num_predicted += len(low)
                found += measured(low, predicted_iou, upsample, num_pixels, self._config)
            stable = concatenate(found)
            num_stable += len(stable.bits)
            parts.append(self._survivors(stable, box, size).placed(box, size))
        return _with_left(self._encoded(self._merged(parts, crops)), num_predicted, num_stable)

    def _merged(self, parts: Sequence[MaskCandidates], crops: Sequence[tuple[Box, int]]) -> MaskCandidates:
        """Return the mask candidates of an image's crops, all in its frame, after the NMS between crops."""
        found = concatenate(parts)
        if len(crops) > 1:
            # If two crops have the same object, NMS keeps the mask of the smaller crop.
            areas = torch.tensor([(x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), _ in crops])
            scores = (1 / areas).repeat_interleave(torch.tensor([len(part.bits) for part in parts]))
            boxes = found.boxes_px.float()
            found = found.take(nms(boxes, to_device(scores, boxes.device), self._config.crop_nms_thresh))
        return found

    def _encoded(self, found: MaskCandidates) -> Proposals:
        """Return the mask candidates of an image as proposals, without small regions where these are to go."""
        if not self._config.min_mask_region_area or not len(found.bits):
            return encode_proposals(found)
        # Two masks may become doubles when holes and islands are removed. Then NMS prefers a mask that was not changed.
        found, is_unchanged = without_small_regions(found, self._config.min_mask_region_area)
        threshold = max(self._config.box_nms_thresh, self._config.crop_nms_thresh)
        return encode_proposals(found.take(nms(found.boxes_px.float(), is_unchanged.float(), threshold)))

    def _survivors(self, found: MaskCandidates, box: Box, size: tuple[int, int]) -> MaskCandidates:
        """Return the mask candidates of a crop that are not cut off at its edge inside the image, after its NMS."""
        device = found.boxes_px.device
        x0, y0, _, _ = box
        frame = torch.tensor([[x0, y0, x0, y0], box, [0, 0, size[1], size[0]]])
        start, edges, borders = to_device(frame, device).unbind()
        is_at_edge, is_at_border = (
            (found.boxes_px + start - each).abs() <= _EDGE_TOLERANCE_PX for each in (edges, borders)
        )
        found = found.take(~(is_at_edge & ~is_at_border).any(dim=1))
        return found.take(nms(found.boxes_px.float(), found.predicted_iou, self._config.box_nms_thresh))


def _with_left(proposals: Proposals, num_predicted: int, num_stable: int) -> Proposals:
    left = {"predicted_iou": num_predicted, "stability": num_stable, "box_doubles": len(proposals)}
    return replace(proposals, left=left)


def without_small_regions(found: MaskCandidates, min_area_px: int) -> tuple[MaskCandidates, torch.Tensor]:
    """Return at least one mask candidate each without small regions, on the CPU, and which are unchanged, (N,) bool."""
    # The masks move to the host, because scipy labels regions there.
    found = MaskCandidates(found.size, *map(torch.from_numpy, to_host(*found.columns)))
    parts, is_unchanged = [], []
    for row in range(len(found.bits)):
        one = found.take(torch.tensor([row]))
        mask, has_changed = remove_small_regions(unpack_bits(one.bits, one.size)[0].numpy(), min_area_px)
        parts.append(one.with_masks(torch.from_numpy(mask)[None]) if has_changed else one)
        is_unchanged.append(not has_changed)
    return concatenate(parts), torch.tensor(is_unchanged)


def remove_small_regions(mask: NDArray[np.bool_], min_area_px: int) -> tuple[NDArray[np.bool_], bool]:
    """Return the mask (H, W) without holes and islands below `min_area_px`, and whether anything changed.

    A hole is any region of background, also at the image's border. If all islands are small, the largest stays (the
    first in reading order among equals), so that a mask with pixels never becomes empty.
    """
    # The label is 0 outside of all regions, and 1, 2 and so on in them. So the size of label 0 is dropped.
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
    _num_dropped: Callable[[Proposals], int | None] = staticmethod(lambda _: None)

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Load the model and the instance prior."""
        self._device = prepare_device(compute)
        self._generate = MaskGenerator(self._load(config, compute), config)
        self._prior = build_prior(config, self._device)

    @classmethod
    def of_run(cls, config: RunConfig) -> Self:
        """Load the model of a run, whose section `composing` may ask how many masks are too small."""
        proposer = cls(config.masks, config.compute)
        proposer._num_dropped = partial(num_dropped, config=config)
        return proposer

    def _load(self, config: MasksConfig, compute: ComputeConfig) -> PromptableModel:
        sam = load_sam(config.architecture, config.weights).to(self._device)
        model = PromptableSam(sam, dtype=compute_dtype(compute))
        if compute.is_compiled:
            compile_tower(model.fused or sam.image_encoder)
        if model.fused:
            # It has these blocks, or copies of them in half precision.
            del sam.image_encoder.blocks
        return model

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined; () if no mask survives."""
        with prefetched_pixels(shard.images, self._device) as decode:
            return apply_to_groups(shard, STAGE_PROPOSE, partial(self._propose, decode), fits=self._fits)

    def _fits(self, images: Sequence[ShardImage]) -> bool:
        return len(images) <= self._generate.images_together

    def _propose(self, decode: Decode, images: Sequence[ShardImage]) -> list[ShardImage]:
        pixels = list(map(decode, images))
        return [
            replace(
                self._prior(image, of_image, proposals).onto(image, proposals),
                num_too_small=self._num_dropped(proposals),
            )
            for image, of_image, proposals in zip(images, pixels, self._generate.together(pixels), strict=True)
        ]


def _held_points(model: PromptableSam, config: MasksConfig) -> int:
    return min(_MOST_POINTS, config.points_per_batch) * _HELD_A_POINT // model.bytes_a_point


class MaskBatch:
    """What SAM answers to the points on the crops of several images at once, for a GPU.

    The CPU waits for it three times, whatever the images hold: it reads what SAM predicts of all masks, then areas and
    boxes of those above the threshold, and last the few masks that survive the rules of the generator. Until then masks
    stay on the GPU, as SAM's low-resolution logits, a row each. What prompts made of images is held until predictions
    are read, so where memory is short, or an image has many crops, they are read more often.
    """

    def __init__(
        self,
        model: PromptableSam,
        images: Sequence[NDArray[np.uint8]],
        crops: Sequence[Sequence[tuple[Box, int]]],
        grids: Sequence[PointGrid],
        config: MasksConfig,
    ) -> None:
        """Ask the model, and make the masks whose predicted IoU is above the threshold: `num_predicted` by crop."""
        self._model, self._config = model, config
        self._places = [(image, *crop) for image, of_image in zip(images, crops, strict=True) for crop in of_image]
        pixels = [np.ascontiguousarray(image[y0:y1, x0:x1]) for image, (x0, y0, x1, y1), _ in self._places]
        self._encoded = list(model.encode(pixels))
        held, num_points = list[tuple[int, Answers]](), 0
        parts: list[tuple[int, list[torch.Tensor], NDArray[np.float32]]] = []
        for number, (crop, (*_, layer)) in enumerate(zip(self._encoded, self._places, strict=True)):
            for answers in model.ask(crop, grids[layer], config.points_per_batch):
                if held and num_points + len(answers.predicted_iou) > _held_points(model, config):
                    parts += self._kept(held)
                    num_points = 0
                held.append((number, answers))
                num_points += len(answers.predicted_iou)
                del answers
        parts += self._kept(held)
        numbers, logits, predicted = zip(*parts, strict=True)
        self._low = torch.cat([part for of_pass in logits for part in of_pass])
        self._predicted_iou = torch.from_numpy(np.concatenate(predicted))
        of_row = np.repeat(numbers, [len(iou) for iou in predicted])
        self._rows = [np.flatnonzero(of_row == number) for number in range(len(self._places))]
        self.num_predicted = list(map(len, self._rows))
        # Of each row, how often its mask changes along the columns; `measured` reads it.
        self._num_changes = np.zeros(0, dtype=np.int64)

    def _kept(self, held: list[tuple[int, Answers]]) -> Iterator[tuple[int, list[torch.Tensor], NDArray[np.float32]]]:
        """Yield the masks whose predicted IoU is above the threshold, with the number of their crop; empty `held`."""
        least = self._config.pred_iou_thresh
        for iou in to_host(*[answers.predicted_iou for _, answers in held]):
            number, answers = held.pop(0)
            kept = iou > least if least > 0 else np.ones_like(iou, dtype=np.bool_)
            yield number, list(self._model.masks(answers, kept)), iou[kept]

    def measured(self) -> list[MaskCandidates]:
        """Return the masks of each crop that are stable enough, in host memory; none is empty."""
        parts = [self._figures(logits) for _, _, logits in self._upsampled(self._rows)]
        figures = torch.from_numpy(to_host(torch.cat(parts))[0] if parts else np.zeros((0, 7), dtype=np.int64))
        self._num_changes = figures[:, 2].numpy()
        stability, is_kept = figures[:, 0] / figures[:, 1], figures[:, 2] > 0
        if self._config.stability_score_thresh > 0:
            is_kept &= stability >= self._config.stability_score_thresh
        columns = torch.arange(len(figures))[:, None], figures[:, 3:], self._predicted_iou, stability
        kept = [of_crop[is_kept[of_crop]] for of_crop in map(torch.from_numpy, self._rows)]
        sizes = [crop.size for crop in self._encoded]
        return [MaskCandidates(size, *columns).take(rows) for size, rows in zip(sizes, kept, strict=True)]

    def _figures(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the areas of both stability thresholds, the changes along the columns, and the boxes, (N, 7) int64."""
        offset, masks = self._config.stability_score_offset, logits > MASK_THRESHOLD
        areas = [(logits > MASK_THRESHOLD + each).flatten(1).sum(1) for each in (offset, -offset)]
        return torch.cat([torch.stack([*areas, rle.changes(masks).sum(1)], 1), inclusive_boxes(masks)], 1)

    def _upsampled(self, rows: Sequence[rle.Int64Array]) -> Iterator[tuple[int, rle.Int64Array, torch.Tensor]]:
        """Yield a crop, some of its rows, and their logits (N, H, W) float32 at its size: as many at once as fit."""
        on_gpu, first = to_device(np.concatenate(rows), self._low.device), 0
        allowed = min(_MOST_POINTS, self._config.points_per_batch) * _UPSAMPLED_A_POINT
        for number, (crop, of_crop) in enumerate(zip(self._encoded, rows, strict=True)):
            # The image's pixels are counted too, because `codes` makes masks of its size, which may exceed the crop's.
            height, width, _ = self._places[number][0].shape
            step = max(1, allowed // (4 * max(self._model.side**2, height * width)))
            for start in range(0, len(of_crop), step):
                some = of_crop[start : start + step]
                low = self._low[on_gpu[first : first + len(some)]].float()
                first += len(some)
                yield number, some, self._model.upsample(low, crop)

    def codes(self, rows: rle.Int64Array) -> dict[int, str]:
        """Return the run-length codes of masks by their rows, in the frames of their images."""
        sent, parts = [], []
        for number, some, logits in self._upsampled([of_crop[np.isin(of_crop, rows)] for of_crop in self._rows]):
            image, (x0, y0, x1, y1), _ = self._places[number]
            masks = F.pad(logits > MASK_THRESHOLD, (x0, image.shape[1] - x1, y0, image.shape[0] - y1))
            # In a larger frame a mask may have two more changes a column, at the crop's edges. `most` must count them.
            further = 2 * (x1 - x0) * len(some) if masks.shape != logits.shape else 0
            most = further + int(self._num_changes[some].sum())
            sent.append(torch.nonzero_static(rle.changes(masks).flatten(), size=most, fill_value=-1)[:, 0])
            parts.append((some, masks[0].numel()))
        found: dict[int, str] = {}
        for (some, num_pixels), positions in zip(parts, to_host(*sent) if sent else (), strict=True):
            of_some = rle.encode_changes(positions[positions >= 0], len(some), num_pixels)
            found.update(zip(some.tolist(), of_some, strict=True))
        return found
