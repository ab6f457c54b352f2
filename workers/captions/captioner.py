"""The second stage: masks in, candidate expressions out, by CoCa."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage, clean_text
from pseudoris.workers.captions.decoding_rules import GeneratedCaption, ImageCrops
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.listener import Listener
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens
from pseudoris.workers.checkpoints.openclip import byte_pair_encoder, load_coca
from pseudoris.workers.crops.crops import CropFormat, Decode, make_crops, prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.faults.quarantine import apply_to_groups
from pseudoris.workers.stages import STAGE_CAPTION, coca_digest


def to_expressions(
    captions: Iterable[GeneratedCaption], masks: Sequence[MaskRecord], to_text: Callable[[Sequence[int]], str]
) -> tuple[ExpressionRecord, ...]:
    """Return an image's candidates: cleaned captions, with equal texts of one mask merged and empty texts left out.

    Args:
        captions: In the order mask, crop kind, rule. Candidates are ordered by their first caption.
        masks: Of the image.
        to_text: From token ids without SOT and EOS to text.
    """
    samples: dict[tuple[int, str], list[CaptionSample]] = {}
    for caption in captions:
        text = clean_text(to_text(caption.tokens))
        if text:
            rule = caption.rule
            sample = CaptionSample(
                crop=caption.crop,
                decoder=rule.name,
                top_k=rule.top_k,
                top_p=rule.top_p,
                log_prob=caption.log_prob,
                others=caption.others,
                num_others=caption.num_others,
                other_masks=caption.other_masks,
            )
            samples.setdefault((caption.mask_number, text), []).append(sample)
    return tuple(
        ExpressionRecord(target_mask_ids=(masks[number].mask_id,), text=text, samples=tuple(found))
        for (number, text), found in samples.items()
    )


class CocaCaptioner:
    """Captions every mask by beam search and distinctive sampling (paper section 3.2; method page section 3)."""

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load CoCa and its tokenizer.

        Raises:
            ConfigError: Weights are missing, damaged or for another architecture; the architecture cannot be decoded,
                or has too few positions for `max_length`; there is no GPU.
        """
        device, dtype = prepare_device(compute), compute_dtype(compute)
        model = load_coca(config.architecture, config.weights).requires_grad_(False).to(device, dtype)
        self._tokenizer = byte_pair_encoder()
        special = SpecialTokens(self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, model.text.pad_id)
        self._engine = CachedEngine(model, special, config, seed=compute.seed, is_compiled=compute.is_compiled)
        listening = config.listening
        self._listener = Listener(self._engine, config, listening, self._tokenizer.encode) if listening else None
        size, antialiasing = model.visual.image_size[0], config.has_antialiasing
        self._format = CropFormat(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, antialiasing)
        self._scales = config.crop_kinds()
        self._crops_together = config.crops_together
        self._device, self._dtype = device, dtype

    @property
    def num_pairs(self) -> int:
        """Number of (prefix, crop) pairs computed so far, including the listener's. For benchmarks."""
        return self._engine.counts.num_computed + (self._listener.num_computed if self._listener else 0)

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""
        return coca_digest(config)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions` set, unscored, on every image that is not quarantined."""
        with prefetched_pixels([image for image in shard.images if _has_masks(image)], self._device) as decode:
            return apply_to_groups(shard, STAGE_CAPTION, lambda some: self._caption(some, decode), fits=self._fits)

    def _fits(self, images: Sequence[ShardImage]) -> bool:
        return len(self._scales) * sum(len(image.masks) for image in images) <= self._crops_together

    def _caption(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        with_masks = [image for image in images if _has_masks(image)]
        crops = [self.image_crops(image, decode(image)) for image in with_masks]
        encoded = self._engine.encode(crops) if crops else []
        captions = self._engine.generate_together(crops, encoded) if crops else []
        expressions = {}
        for image, image_crops, image_encoded, found in zip(with_masks, crops, encoded, captions, strict=True):
            candidates = to_expressions(found, image.masks, self._to_text)
            if self._listener:
                candidates = self._listener.listen(image_crops, image_encoded, image.masks, candidates)
            expressions[image.position] = candidates
        return [replace(image, expressions=expressions.get(image.position, ())) for image in images]

    def image_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """Return the crops of an image's masks (at least one mask) for the engine; `pixels` (H, W, 3) are RGB."""
        crops = make_crops(
            pixels,
            [mask.box_xyxy_px for mask in image.masks],
            runs=[decode_runs(mask.rle_counts) for mask in image.masks],
            scales=tuple(self._scales.values()),
            crop_format=self._format,
            device=self._device,
        )
        indices = tuple(mask.index for mask in image.masks)
        return ImageCrops(image.image_id, tuple(self._scales), indices, crops.to(self._dtype))

    def _to_text(self, tokens: Sequence[int]) -> str:
        # A SOT token inside a caption would appear as text.
        return str(self._tokenizer.decode([token for token in tokens if token != self._tokenizer.sot_token_id]))


def _has_masks(image: ShardImage) -> bool:
    return not image.failure and bool(image.masks)
