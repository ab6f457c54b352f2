"""A captioner by plug-in, BLIP of transformers: what a class of your own needs. It draws texts of each mask's pixels.

In the `pyproject.toml` of the package that has this file, which every node installs:

    [project.entry-points."pseudoris.captioners"]
    blip = "my_package.blip_captioner:BlipCaptioner"

Then:

    pseudoris annotate photos/ out/ --preset base --set captions.engine=blip \
        --set captions.weights.uri=blip-base/ --set 'captions.options={draws: 6}'
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import BlipForConditionalGeneration, BlipProcessor

from pseudoris import ConfigError
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives.run_lengths import decode_mask
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.stages import STAGE_CAPTION

_TOP_K: Final = 50
_WEIGHTS: Final = "model.safetensors"


class BlipCaptioner:
    """Draws captions of each mask from its pixels on white; `captions.weights.uri` is a local folder of BLIP's."""

    OPTIONS: Final = frozenset({"draws"})

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        self.weights_digest(config)
        self._device, self._seed = torch.device(compute.device), compute.seed
        draws = config.options.get("draws", 6)
        if not isinstance(draws, int) or draws < 1:
            raise ConfigError(f"captions.options.draws={draws!r}: give a whole number of at least 1")
        self._draws = draws
        self._processor: Any = BlipProcessor.from_pretrained(config.weights.uri, local_files_only=True)
        model: Any = BlipForConditionalGeneration.from_pretrained(config.weights.uri, local_files_only=True)
        self._model = model.eval().to(self._device)

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of the weights; a ConfigError if they are not there."""
        weights = Path(config.weights.uri) / _WEIGHTS
        if not weights.is_file():
            raise ConfigError(f"captions.weights.uri: {weights} is no file: save BLIP there by `save_pretrained`")
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions`, unscored. An image on which `_caption` raises fails alone."""
        return apply_to_images(shard, STAGE_CAPTION, self._caption)

    def _caption(self, image: ShardImage) -> ShardImage:
        pixels = decode_proven(image.data, image.levels)
        # The draws depend on the image and the seed alone, so an image that is computed again has the same.
        key = hashlib.sha256(f"{self._seed} {image.sha256}".encode()).digest()
        torch.manual_seed(int.from_bytes(key[:8]))
        found = [each for mask in image.masks for each in self._candidates(pixels, mask)]
        return replace(image, expressions=tuple(found))

    @torch.inference_mode()
    def _candidates(self, pixels: np.ndarray, mask: MaskRecord) -> list[ExpressionRecord]:
        x0, y0, x1, y1 = mask.box_xyxy_px
        inside = decode_mask(mask.rle_counts, *pixels.shape[:2])[y0:y1, x0:x1, None]
        crop = np.where(inside, pixels[y0:y1, x0:x1], np.uint8(255))
        inputs = self._processor(images=crop, return_tensors="pt").to(self._device)
        drawn = self._model.generate(
            **inputs, do_sample=True, top_k=_TOP_K, num_return_sequences=self._draws, max_new_tokens=20
        )
        # A captioner that gives no probabilities of its texts says None.
        sample = CaptionSample("masked", "top_k", _TOP_K, None, None)
        samples = dict[str, list[CaptionSample]]()
        for text in self._processor.batch_decode(drawn, skip_special_tokens=True):
            if text := " ".join(text.lower().split()):
                samples.setdefault(text, []).append(sample)
        return [ExpressionRecord((mask.mask_id,), text, tuple(each)) for text, each in samples.items()]
