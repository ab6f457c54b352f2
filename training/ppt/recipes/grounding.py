"""Grounds a phrase: CLIP's response map prompts SAM (section 3.2 of PPT). For `training` and experiments.

An answer does not depend on the phrases asked beside it, nor on the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from pseudoris.primitives.english import DETERMINERS
from pseudoris.schemas.config import RunConfig
from pseudoris.training.learning.clip_features import (
    class_response_map,
    read_images,
    read_texts,
    response_map,
    surgery_map,
)
from pseudoris.training.learning.frozen_towers import FeatureCache, frozen_clip
from pseudoris.training.ppt.recipes.recipe_config import GroundingConfig
from pseudoris.workers.device import prepare_device
from pseudoris.workers.filtering.clip_embedder import crop_format
from pseudoris.workers.masks.sam_model import EncodedCrop, encode_sam_crops, load_sam, to_input_frame, upsample

FloatArray = NDArray[np.float32]

# This many texts are read at once, padded, because a product's rounding depends on its shape.
_TEXTS_A_TILE: Final = 8
# Cached texts take at most this many bytes, enough for a hundred thousand: one takes 2 kB with a ViT-B.
_TEXT_BYTES: Final = 2**28


def prompted(phrase: str, prompt: str) -> str:
    """Return a phrase as CLIP reads it, without determiners: "a photo of a red star"; `{}` changes nothing."""
    if prompt == "{}":
        return phrase
    words = phrase.split()
    while len(words) > 1 and words[0] in DETERMINERS:
        words = words[1:]
    return prompt.replace("{}", " ".join(words))


def as_shares(maps: FloatArray) -> FloatArray:
    """Return maps (P, H, W) over their own ranges, from 0 to 1 each; a map without a range is 0."""
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    shares: FloatArray = np.where(span > 0, (maps - low) / np.maximum(span, 1e-12), 0.0).astype(np.float32)
    return shares


def response_points(
    share: FloatArray, num_points: int, *, high: float, low: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points (Q, 2) xy in pixels, at pixels' centres, and their labels (Q,): 1 of high responses, 0 of low ones.

    At most `num_points` of each label. The first is at the extreme, each further one as far as possible from those
    before it; ties by position. A response (H, W) of at least `high` is positive, of at most `low` negative.
    """
    positive = _spread(share >= high, int(share.argmax()), num_points)
    negative = _spread(share <= low, int(share.argmin()), num_points)
    xy = np.concatenate([positive, negative]) + 0.5
    labels = np.repeat(np.array([1, 0], np.int64), [len(positive), len(negative)])
    return xy, labels


@dataclass(frozen=True, slots=True)
class Peaks:
    """Which peaks of a response count: at most `count`, each the highest within `radius`, at `min_share` or more."""

    count: int = 1
    min_share: float = 1.0
    # Peaks nearer than this share of the longer side, along rows and columns, belong to one object: two and a half
    # patches of the scene CLIP.
    radius: float = 0.16


HIGHEST: Final = Peaks()


def parted(share: FloatArray, peaks: Peaks) -> list[FloatArray]:
    """Return for each peak of a response (H, W), the highest first, the response where no other peak is nearer.

    Elsewhere it is 0, and where it is higher than the peak: on a flank of another object. For one peak it is all of it.
    """
    if peaks.count == 1:
        return [share]
    radius = max(1, round(peaks.radius * max(share.shape)))
    is_peak = (share == maximum_filter(share, size=2 * radius + 1, mode="nearest")) & (share >= peaks.min_share)
    # A peak within the radius of a chosen peak is dropped, because every pixel of a plateau is a peak.
    places = np.argwhere(is_peak)
    taken: list[NDArray[np.int64]] = []
    for place in places[np.argsort(-share[is_peak], kind="stable")]:
        if len(taken) < peaks.count and all(np.abs(place - other).max() > radius for other in taken):
            taken.append(place)
    if len(taken) < 2:
        return [share]
    rows, columns = np.indices(share.shape)
    nearest = np.argmin([np.square(rows - y) + np.square(columns - x) for y, x in taken], axis=0)
    owned = [(nearest == at) & (share <= share[y, x]) for at, (y, x) in enumerate(taken)]
    return [np.where(own, share, np.float32(0)) for own in owned]


def _spread(allowed: NDArray[np.bool_], first: int, count: int) -> NDArray[np.float64]:
    """Farthest-point sampling of pixels (x, y) where `allowed`, from the flat position `first` on."""
    width = allowed.shape[1]
    ys, xs = np.nonzero(allowed)
    pixels = np.stack([xs, ys], -1).astype(np.float64)
    chosen = [np.array([first % width, first // width], np.float64)]
    nearest = np.full(len(pixels), np.inf)
    while len(chosen) < count and len(pixels):
        nearest = np.minimum(nearest, np.square(pixels - chosen[-1]).sum(-1))
        if not nearest.max() > 0:
            break
        chosen.append(pixels[int(nearest.argmax())])
    return np.stack(chosen)


@dataclass(frozen=True, slots=True)
class GroundedMask:
    """What an image shows for a phrase: a mask (H, W) bool of at least one pixel, SAM's estimate, and `agreement`."""

    phrase: str
    mask: NDArray[np.bool_]
    predicted_iou: float
    agreement: float


class Grounder:
    """A frozen CLIP that maps where an image responds to a text, followed by a frozen SAM that makes masks of that."""

    def __init__(self, config: GroundingConfig, run: RunConfig) -> None:
        """Load both, as `RecipeConfig.run` names them."""
        self._config, self._device = config, prepare_device(run.compute)
        clip, sam = run.filtering, run.masks
        self._model, self._tokenise = frozen_clip(clip.architecture, clip.weights, setting="filtering.architecture")
        self._model.to(self._device)
        self._format = crop_format(self._model, clip.weights)
        self._texts = FeatureCache[torch.Tensor](_TEXT_BYTES, lambda embedding: embedding.nbytes)
        self._sam = load_sam(sam.architecture, sam.weights).to(self._device).requires_grad_(False)

    def __call__(
        self, image: NDArray[np.uint8], phrases: Sequence[str], redundant: Sequence[str] = (), peaks: Peaks = HIGHEST
    ) -> list[GroundedMask]:
        """Return a mask for each peak of each phrase, in order, without empty ones; the rest is as of `responses`."""
        if not phrases:
            return []
        answers = self.answers(image, self.responses(image, phrases, redundant), peaks)
        pairs = zip(phrases, answers, strict=True)
        return [GroundedMask(phrase, *each) for phrase, found in pairs for each in found if each[0].any()]

    @torch.inference_mode()
    def responses(self, image: NDArray[np.uint8], phrases: Sequence[str], redundant: Sequence[str] = ()) -> FloatArray:
        """Return the responses (P, H, W) float32 in [0, 1] of an image to phrases, each over its own range.

        The image is (H, W, 3) uint8 RGB, upright. The tower sees it stretched to its square, so that its grid and the
        image share one frame in [0, 1]. `redundant` is what else such images show, for feature surgery.
        """
        config, form = self._config, self._format
        planes = torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1)[None].float() / 255
        planes = F.interpolate(planes, (form.size, form.size), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(each, device=self._device).view(1, 3, 1, 1) for each in (form.mean, form.std))
        planes = (planes - mean) / std
        if config.surgery_blocks:
            seen = surgery_map(self._model, planes, num_blocks=config.surgery_blocks)
        else:
            seen = read_images(self._model, planes)
        maps = []
        for phrase in phrases:
            classes = list(dict.fromkeys([phrase, *redundant]))
            if config.is_feature_surgery and len(classes) > 1:
                maps.append(class_response_map(seen, self._embed(classes)))
            else:
                empty = self._embed([""]) if config.is_feature_surgery else None
                maps.append(response_map(seen.dense, self._embed([phrase]), redundant=empty))
        full = F.interpolate(torch.stack(maps, 1), image.shape[:2], mode="bicubic", align_corners=False)[0]
        return as_shares(full.float().cpu().numpy())

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        """The texts in the joint space (T, D); each is read once."""

        def read(some: Sequence[str]) -> Iterator[torch.Tensor]:
            tokens = self._tokenise([prompted(text, self._config.prompt) for text in some])
            tile = F.pad(tokens, (0, 0, 0, _TEXTS_A_TILE - len(some)))
            # Rows are cloned, because a cached view of one row would keep its whole batch in memory.
            yield from (row.clone() for row in read_texts(self._model, tile.to(self._device)).embedding[: len(some)])

        return torch.stack(self._texts.read(texts, read, tile=_TEXTS_A_TILE))

    @torch.inference_mode()
    def answers(
        self, image: NDArray[np.uint8], shares: FloatArray, peaks: Peaks = HIGHEST
    ) -> list[list[tuple[NDArray[np.bool_], float, float]]]:
        """Return for each peak of each response (P, H, W) to an image (H, W, 3) the fields of a `GroundedMask`."""
        (crop,) = encode_sam_crops(self._sam, [image], torch.float32)
        return [[self._answer(crop, part) for part in parted(share, peaks)] for share in shares]

    def _answer(self, crop: EncodedCrop, share: FloatArray) -> tuple[NDArray[np.bool_], float, float]:
        """The mask of one peak: prompts from the map, and of SAM's answers the one that the config chooses."""
        config = self._config
        xy, labels = response_points(share, config.num_points, high=config.high, low=config.low)
        if config.prompts == "peak":
            xy, labels = xy[:1], labels[:1]
        height, width = crop.size
        points = to_input_frame(xy / np.array([width, height]), crop)
        prompt = torch.from_numpy(points).float(), torch.from_numpy(labels)
        given = tuple(each[None].to(self._device) for each in prompt)
        sparse, dense = self._sam.prompt_encoder(points=given, boxes=None, masks=None)
        # SAM is asked for three masks if there is one peak, and for one mask if there are several points.
        low, predicted = self._sam.mask_decoder(
            image_embeddings=crop.embedding[None],
            image_pe=self._sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=config.prompts == "peak",
        )
        logits = upsample(low[0].float(), crop, int(self._sam.image_encoder.img_size))
        scores = predicted[0].float().cpu().numpy()
        masks = (logits > 0).cpu().numpy()
        agreements = [agreement(mask, share) for mask in masks]
        best = int(np.argmax(agreements if config.choice == "agreement" else scores))
        return masks[best], float(scores[best]), agreements[best]


def agreement(mask: NDArray[np.bool_], share: FloatArray) -> float:
    """Return how well a mask (H, W) answers a response (H, W) in [0, 1]: their soft IoU, Σ min / Σ max of both."""
    inside = float(share[mask].sum())
    union = float(mask.sum()) + float(share.sum()) - inside
    return inside / union if union > 0 else 0.0
