"""Both sides of the masks' benchmark, Meta's generator and ours on one SAM; where `agree` raises, no time counts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from evidence.benchmarks.measurement import peak_rss_bytes, wait_for
from evidence.recipes.scene_shards import scene_image
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives import rle
from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.checkpoints.weight_cache import random_seed
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam_model import PromptableSam, load_sam

# Coarse: in the precision of the configuration; autocast: Meta's models under it, as people speed them up.
Side = Literal["meta", "meta, autocast", "ours", "ours, coarse"]

# What Meta's generator takes by these names; not `min_mask_region_area`, for which it needs OpenCV.
_SHARED = (
    "points_per_side",
    "points_per_batch",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
)
# Random weights give logits of about 0.03; of the mask candidates that pass predicted IoU half are to be stable.
_RANDOM_OFFSET, _RANDOM_STABLE = 0.002, 0.5
# A side of the grid: its candidates are enough for a quantile, and all of them are kept.
_RANDOM_POINTS = 8
# Source: the promise for other dtypes and shapes, which leaves room for a logit of random weights next to 0.
MIN_IOU, _MAX_COUNT_DIFFERENCE = 0.99, 0.02


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for all images in one call, without the image encoder and in it, and the process's peak memory."""

    rest_s: float
    encoder_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far both sides agree on all images, and the share of mask candidates that predicted IoU lets pass."""

    num_theirs: int
    num_ours: int
    num_same_codes: int
    mean_iou: float
    share_kept: float

    def __str__(self) -> str:
        """Return the figures as a reader of the table wants them."""
        return (
            f"{self.share_kept:.0%} of candidates pass predicted IoU; {self.num_ours} masks, Meta {self.num_theirs}; "
            f"{self.num_same_codes} codes equal, matched IoU {self.mean_iou:.4f}"
        )


class Sides:
    """Meta's generator and ours on the same weights and images, with a clock in the image encoder."""

    def __init__(
        self, config: RunConfig, *, num_images: int, kept_share: float, is_remembering: bool | None = None
    ) -> None:
        """Load SAM; random weights are made smooth, with thresholds that let `kept_share` of the mask candidates pass.

        Args:
            config: Its `masks` and `compute`.
            num_images: Scenes on which masks are generated.
            kept_share: Of the mask candidates of random weights, those to pass predicted IoU.
            is_remembering: Encode each image once for both sides, where the encoder is left out of the times; by
                default that of random weights, which may be a large one.
        """
        self._device, self._dtype = prepare_device(config.compute), compute_dtype(config.compute)
        masks = config.masks.model_copy(update={"min_mask_region_area": 0})
        self._sam = load_sam(masks.architecture, masks.weights).requires_grad_(False).to(self._device)
        self._images = scene_pixels(num_images)
        is_random = smooth_if_random(self._sam, masks.weights)
        is_remembering = is_random if is_remembering is None else is_remembering
        self._clock = _EncoderClock(self._sam, is_remembering=is_remembering)
        # Those of random weights, under which a realistic share of the mask candidates is left.
        self.thresholds = self._realistic(masks, kept_share) if is_random else {}
        masks = masks.model_copy(update=self.thresholds)
        self._config = masks
        shared = {name: getattr(masks, name) for name in _SHARED}
        meta, autocast = (SamAutomaticMaskGenerator(self._sam, **shared) for _ in range(2))
        autocast.predictor = _AutocastPredictor(self._sam, self._dtype)
        self._generate: dict[Side, Callable[[NDArray[np.uint8]], Any]] = {
            "meta": meta.generate,
            "meta, autocast": autocast.generate,
            "ours": MaskGenerator(PromptableSam(self._sam), masks),
            "ours, coarse": MaskGenerator(PromptableSam(self._sam, dtype=self._dtype), masks),
        }

    def run(self, side: Side) -> Timing:
        """Generate the masks of all images once."""
        self._clock.seconds = 0.0
        started = time.perf_counter()
        generate = self._generate[side]
        if isinstance(generate, MaskGenerator):
            generate.together(self._images)
        else:
            for image in self._images:
                generate(image)
        wait_for(self._device)
        total = time.perf_counter() - started
        return Timing(total - self._clock.seconds, self._clock.seconds, peak_rss_bytes())

    def generator(self, side: Side) -> Callable[[NDArray[np.uint8]], Any]:
        """Return what makes masks of an image (H, W, 3) uint8 RGB: Meta's annotations, or our `Proposals`."""
        return self._generate[side]

    @property
    def num_images(self) -> int:
        """How many images a run takes."""
        return len(self._images)

    def agree(self) -> Agreement:
        """Compare our masks with those of Meta's generator, both in float32.

        Raises:
            ValueError: They differ by more than rounding explains, so that their times cannot be compared.
        """
        agreement = self.compare("ours")
        difference = abs(agreement.num_ours - agreement.num_theirs)
        if agreement.mean_iou < MIN_IOU or difference > _MAX_COUNT_DIFFERENCE * agreement.num_theirs:
            raise ValueError(
                f"the two sides find different masks ({agreement}): compare no times before this is mended"
            )
        return agreement

    def compare(self, side: Side) -> Agreement:
        """Return how far a side of ours agrees with Meta's generator in float32."""
        with _PredictedIous(self._sam) as predicted:
            ours = [self._generate[side](image) for image in self._images]
        theirs = [codes(self._generate["meta"](image)) for image in self._images]
        pairs = list(zip(ours, theirs, strict=True))
        best = [best_ious(one.counts, other, one.size) for one, other in pairs]
        return Agreement(
            num_theirs=sum(map(len, theirs)),
            num_ours=sum(map(len, ours)),
            num_same_codes=sum(len(set(one.counts) & set(other)) for one, other in pairs),
            mean_iou=float(np.concatenate(best).mean()),
            share_kept=float((torch.cat(predicted.values) > self._config.pred_iou_thresh).float().mean()),
        )

    def _realistic(self, masks: Any, kept_share: float) -> dict[str, float]:
        """Return thresholds under which random weights leave a realistic share of mask candidates."""
        all_pass = {
            "stability_score_offset": _RANDOM_OFFSET,
            "stability_score_thresh": 0.0,
            "pred_iou_thresh": 0.0,
            "box_nms_thresh": 1.0,
            "points_per_side": min(_RANDOM_POINTS, masks.points_per_side),
            # A pass on a GPU then holds these and no padding.
            "points_per_batch": 4,
        }
        with _PredictedIous(self._sam) as predicted:
            found = MaskGenerator(PromptableSam(self._sam), masks.model_copy(update=all_pass))(self._images[0])
        return {
            "pred_iou_thresh": float(torch.cat(predicted.values).quantile(1 - kept_share)),
            "stability_score_offset": _RANDOM_OFFSET,
            "stability_score_thresh": float(np.quantile(found.stability, 1 - _RANDOM_STABLE)),
        }


def scene_pixels(num_images: int) -> list[NDArray[np.uint8]]:
    """Return the first scenes, (H, W, 3) uint8 RGB each."""
    scenes = [scene_image(make_scene(Split.DEMO, position)) for position in range(num_images)]
    return [decode_proven(scene.data) for scene in scenes]


def smooth_if_random(sam: Sam, weights: WeightsConfig) -> bool:
    """Return whether weights are random; then smooth those that were loaded."""
    is_random = random_seed(weights) is not None
    if is_random:
        smooth_weights(sam)
    return is_random


def smooth_weights(sam: Sam) -> None:
    """Change random weights so that masks are smooth, as trained ones are: else run-length codes are all that counts.

    Both upscaling convolutions give the four pixels of one the same value, and the encoding is blurred.
    """
    for layer in sam.mask_decoder.output_upscaling:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))

    def blurred(_: nn.Module, __: object, encoded: torch.Tensor) -> torch.Tensor:
        coarse = F.adaptive_avg_pool2d(encoded, 6)
        return F.interpolate(coarse / coarse.std(), size=encoded.shape[2:], mode="bicubic")

    # The last part, which our encoder for a GPU shares.
    sam.image_encoder.neck.register_forward_hook(blurred)


class _EncoderClock:
    """Counts the seconds of SAM's image encoder; if it remembers, no input is computed twice."""

    def __init__(self, sam: Sam, *, is_remembering: bool) -> None:
        self.seconds = 0.0
        self._encode = sam.image_encoder.forward
        self._known: dict[bytes, torch.Tensor] = {}
        self._is_remembering = is_remembering
        sam.image_encoder.forward = self._timed

    def _timed(self, pixels: torch.Tensor) -> torch.Tensor:
        wait_for(pixels.device)
        started = time.perf_counter()
        encoded = self._remembered(pixels) if self._is_remembering else self._encode(pixels)
        wait_for(pixels.device)
        self.seconds += time.perf_counter() - started
        return encoded

    def _remembered(self, pixels: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.sha256(one.cpu().numpy().tobytes()).digest() for one in pixels]
        for key, one in zip(keys, pixels, strict=True):
            if key not in self._known:
                self._known[key] = self._encode(one[None])[0]
        return torch.stack([self._known[key] for key in keys])


class _AutocastPredictor(SamPredictor):  # type: ignore[misc]
    """Meta's predictor with its models under autocast; its generator needs float32 where numpy reads."""

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__(sam)
        self._dtype = dtype

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)

    def set_image(self, *given: Any, **named: Any) -> None:
        with self._autocast():
            super().set_image(*given, **named)

    def predict_torch(self, *given: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        with self._autocast():
            found = super().predict_torch(*given, **named)
        return tuple(one.float() for one in found)


class _PredictedIous:
    """While it is open, collects what the decoder predicts for the three masks of every prompt."""

    def __init__(self, sam: Sam) -> None:
        self._head = sam.mask_decoder.iou_prediction_head
        self.values: list[torch.Tensor] = []

    def __enter__(self) -> _PredictedIous:
        self._hook = self._head.register_forward_hook(lambda _, __, given: self.values.append(given[:, 1:].flatten()))
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def codes(annotations: list[dict[str, Any]]) -> list[str]:
    """Return Meta's masks as COCO compressed run lengths, in their order."""
    return [rle.encode(torch.from_numpy(one["segmentation"])[None])[0] for one in annotations]


def best_ious(ours: Sequence[str], theirs: Sequence[str], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return for each of Meta's masks the IoU with the best of ours."""
    ious = rle.ious(theirs, ours, size)
    return ious.max(axis=1) if ious.shape[1] else np.zeros(len(theirs))
