"""The second stage: masks in, candidate expressions out, by CoCa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer

from schemas.config import CaptionsConfig, ComputeConfig
from schemas.shard import MaskRecord, Shard, ShardImage
from workers.boundary import apply_to_groups
from workers.captions.candidates import to_expressions
from workers.captions.drafts import ImageCrops
from workers.captions.engine import CachedEngine
from workers.captions.listening import Listener
from workers.captions.vocabulary import SpecialTokens
from workers.checkpoints.models import load_coca
from workers.checkpoints.weights import weights_digest as file_digest
from workers.device import compute_dtype, prepare_device
from workers.images.ahead import Decode, decoding_ahead
from workers.images.crops import CropFormat, make_crops
from workers.masks import rle
from workers.protocols import STAGE_CAPTION


class CocaCaptioner:
    """Captions every mask by beam search and distinctive sampling (paper section 3.2; method page section 3)."""

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load CoCa and its tokenizer.

        Raises:
            ConfigError: Weights are missing, damaged or of another architecture, the architecture cannot be
                decoded or is too short for `max_length`; no GPU.
        """
        device, dtype = prepare_device(compute), compute_dtype(compute)
        model = load_coca(config.architecture, config.weights).requires_grad_(False).to(device, dtype)
        self._tokenizer = SimpleTokenizer()
        special = SpecialTokens(self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, model.text.pad_id)
        self._engine = CachedEngine(model, special, config, seed=compute.seed, is_compiled=compute.is_compiled)
        listening = config.listening
        self._listener = Listener(self._engine, config, listening, self._tokenizer.encode) if listening else None
        self._format = CropFormat(model.visual.image_size[0], OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        self._scales = config.crop_kinds()
        self._crops_together = config.crops_together
        self._device, self._dtype = device, dtype

    @property
    def num_pairs(self) -> int:
        """(prefix, crop) pairs that the decoder has computed so far, a listener's included; a benchmark reads it."""
        return self._engine.counts.num_computed + (self._listener.num_computed if self._listener else 0)

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""
        return file_digest(config.weights)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions` set, unscored, on every image that is not quarantined."""
        with decoding_ahead([image for image in shard.images if _has_masks(image)], self._device) as decode:
            return apply_to_groups(shard, STAGE_CAPTION, lambda some: self._caption(some, decode), fits=self._fits)

    def _fits(self, images: Sequence[ShardImage]) -> bool:
        return len(self._scales) * sum(len(image.masks) for image in images) <= self._crops_together

    def _caption(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        with_masks = [image for image in images if _has_masks(image)]
        crops = [self.image_crops(image, decode(image)) for image in with_masks]
        encoded = self._engine.encode(crops) if crops else []
        drafts = self._engine.drafts_together(crops, encoded) if crops else []
        expressions = {}
        for image, cut, seen, found in zip(with_masks, crops, encoded, drafts, strict=True):
            candidates = to_expressions(found, image.masks, self._to_text)
            heard = self._listener.listen(cut, seen, image.masks, candidates) if self._listener else candidates
            expressions[image.position] = heard
        return [replace(image, expressions=expressions.get(image.position, ())) for image in images]

    def image_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """Return the crops of an image's masks, at least one, as the engine takes them; `pixels` (H, W, 3) are RGB."""
        return ImageCrops(
            image_id=image.image_id,
            kinds=tuple(self._scales),
            mask_indices=tuple(mask.index for mask in image.masks),
            pixels=self._crops(pixels, image.masks).to(self._dtype),
        )

    def _crops(self, pixels: NDArray[np.uint8], records: Sequence[MaskRecord]) -> torch.Tensor:
        return make_crops(
            pixels,
            [record.box_xyxy_px for record in records],
            runs=[rle.runs(record.rle_counts) for record in records],
            scales=tuple(self._scales.values()),
            crop_format=self._format,
            device=self._device,
        )

    def _to_text(self, tokens: Sequence[int]) -> str:
        # A start of text in the middle of a caption would be spelled out.
        return str(self._tokenizer.decode([token for token in tokens if token != self._tokenizer.sot_token_id]))


def _has_masks(image: ShardImage) -> bool:
    return not image.failure and bool(image.masks)
