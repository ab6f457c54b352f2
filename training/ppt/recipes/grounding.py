"""From a phrase to its mask: CLIP's response map prompts SAM (section 3.2), in D_sem, H_sem and H_ref."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import RunConfig, SamArchitecture, WeightsConfig
from pseudoris.training.ppt.recipes.recipe_config import GroundingConfig
from pseudoris.training.ppt.recipes.response_maps import (
    HIGHEST,
    FloatArray,
    Peaks,
    ResponseMaps,
    parted,
    response_points,
)
from pseudoris.workers.checkpoints.sam import load_sam
from pseudoris.workers.device import prepare_device
from pseudoris.workers.masks.sam_frames import EncodedCrop, encode_crops, to_input_frame, upsample


@dataclass(frozen=True, slots=True)
class GroundedMask:
    """What an image shows for a phrase.

    Attributes:
        phrase: The phrase as given.
        mask: (H, W) bool, at least one pixel.
        predicted_iou: SAM's own estimate.
        agreement: `agreement` of the mask with the response map.
    """

    phrase: str
    mask: NDArray[np.bool_]
    predicted_iou: float
    agreement: float


class Grounder:
    """The frozen CLIP, followed by the frozen SAM."""

    def __init__(self, config: GroundingConfig, run: RunConfig) -> None:
        """Load both, as `RecipeConfig.run` names them.

        Raises:
            ConfigError: Weights are missing or of another architecture, or the device is not there.
        """
        device = prepare_device(run.compute)
        self._responses = ResponseMaps(config, run.filtering.architecture, run.filtering.weights, device)
        self._prompter = ResponsePrompter(config, run.masks.architecture, run.masks.weights, device)

    def __call__(
        self, image: NDArray[np.uint8], phrases: Sequence[str], redundant: Sequence[str] = (), peaks: Peaks = HIGHEST
    ) -> list[GroundedMask]:
        """Return a mask for each peak of each phrase, in order, without those for which SAM answers with no pixel.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            phrases: Noun phrases or names of classes.
            redundant: See `ResponseMaps`.
            peaks: Peaks of each phrase, the highest first; one by default.
        """
        if not phrases:
            return []
        shares = self._responses(image, phrases, redundant)
        answers = self._prompter(image, shares, peaks)
        pairs = zip(phrases, answers, strict=True)
        return [GroundedMask(phrase, *each) for phrase, found in pairs for each in found if each[0].any()]


class ResponsePrompter:
    """A frozen SAM that makes a mask of where an image answers a text."""

    def __init__(
        self, config: GroundingConfig, architecture: SamArchitecture, weights: WeightsConfig, device: torch.device
    ) -> None:
        """Load it.

        Raises:
            ConfigError: Weights are missing or of another architecture.
        """
        self._config, self._device = config, device
        self._sam = load_sam(architecture, weights).to(device).requires_grad_(False)

    @torch.inference_mode()
    def __call__(
        self, image: NDArray[np.uint8], shares: FloatArray, peaks: Peaks = HIGHEST
    ) -> list[list[tuple[NDArray[np.bool_], float, float]]]:
        """Return for each peak of each response (P, H, W) to an image (H, W, 3) the fields of a `GroundedMask`."""
        (crop,) = encode_crops(self._sam, [image], torch.float32)
        return [[self._answer(crop, part) for part in parted(share, peaks)] for share in shares]

    def _answer(self, crop: EncodedCrop, share: FloatArray) -> tuple[NDArray[np.bool_], float, float]:
        """The mask of one peak: prompts from the map, and of SAM's answers the one that the config chooses."""
        config = self._config
        count = 1 if config.prompts == "peak" else config.num_points
        xy, labels = response_points(share, count, high=config.high, low=config.low)
        if config.prompts == "peak":
            xy, labels = xy[:1], labels[:1]
        logits, scores = self._decode(crop, xy, labels)
        masks = (logits > 0).cpu().numpy()
        agreements = [agreement(mask, share) for mask in masks]
        best = int(np.argmax(agreements if config.choice == "agreement" else scores))
        return masks[best], float(scores[best]), agreements[best]

    def _decode(
        self, crop: EncodedCrop, xy: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Logits (K, H, W) at the image's size and predicted IoUs (K,): three masks for a peak, one for points."""
        height, width = crop.size
        points = to_input_frame(xy / np.array([width, height]), crop)
        prompt = (
            torch.from_numpy(points).float()[None].to(self._device),
            torch.from_numpy(labels)[None].to(self._device),
        )
        sparse, dense = self._sam.prompt_encoder(points=prompt, boxes=None, masks=None)
        logits, scores = self._sam.mask_decoder(
            image_embeddings=crop.embedding[None],
            image_pe=self._sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self._config.prompts == "peak",
        )
        side = int(self._sam.image_encoder.img_size)
        return upsample(logits[0].float(), crop, side), scores[0].float().cpu().numpy()


def agreement(mask: NDArray[np.bool_], share: FloatArray) -> float:
    """Return how well a mask (H, W) answers a response (H, W) in [0, 1]: their soft IoU, Σ min / Σ max of both."""
    inside = float(share[mask].sum())
    union = float(mask.sum()) + float(share.sum()) - inside
    return inside / union if union > 0 else 0.0
