"""Captions the crops of images by decoding all rules, masks and crop kinds over one prefix tree.

Several images may share a tree, which changes the last bits of the results. So the shard alone must decide which images
share one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from open_clip.coca_model import CoCa

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import CACHE_BYTES, record
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.decoding_rules import DecodingRule, GeneratedCaption, ImageCrops, configured_rules
from pseudoris.workers.captions.distinctive import Others, choose_others, join_others
from pseudoris.workers.captions.prefix_tree_decoder import DecodingCounts, DecodingLimits, PrefixTreeDecoding
from pseudoris.workers.captions.row_sampler import SamplerRows
from pseudoris.workers.captions.unique_crops import CropSet, EncodedImage, crop_batches, encode_images, gather
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary
from pseudoris.workers.counter_rng import DrawKey, draws
from pseudoris.workers.forward_passes import compile_tower


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3)."""

    def __init__(
        self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int, is_compiled: bool = False
    ) -> None:
        """Wrap a model in eval mode, on its device and in its dtype; `is_compiled` as in the configuration.

        Raises:
            ConfigError: The architecture cannot be decoded, or has too few positions.
        """
        self._model, self._config, self._seed = model, config, seed
        # The listener uses the same towers, caches and vocabulary.
        self.special = special
        self._is_compiled = is_compiled
        if is_compiled:
            compile_tower(model.visual)
        self.towers = CachedCocaTowers(model, is_compiled=is_compiled)
        # Counts over all images so far. For benchmarks.
        self.counts = DecodingCounts()
        self._samplers = [rule for rule in configured_rules(config) if rule.name != "beam"]
        self.vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), special.eos)
        positions = self.towers.max_prefix_length
        if config.max_length - 1 > positions:
            raise ConfigError(
                f"captions.max_length={config.max_length} needs {config.max_length - 1} positions, "
                f"but {config.architecture} has {positions}: --set captions.max_length={positions + 1} or less"
            )

    def generate(self, image: ImageCrops) -> list[GeneratedCaption]:
        """Return one caption per mask, crop kind and rule, in this order."""
        return self.generate_together([image])[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageCrops]) -> list[EncodedImage]:
        """Return the encodings of the images' crops, at least one image."""
        return encode_images(self._model, images, is_compiled=self._is_compiled)

    @torch.inference_mode()
    def generate_together(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage] | None = None
    ) -> list[list[GeneratedCaption]]:
        """Return the captions of several images, each in the order of `generate`; `encoded` as by `encode`.

        The images share prefix trees, so matrices are larger than for one image. So the last bits of a probability, and
        rarely a draw, depend on which images are decoded together.
        """
        encoded = self.encode(images) if encoded is None else encoded
        captions: list[list[GeneratedCaption]] = [[] for _ in images]
        bytes_a_crop = self.towers.image_bytes(1, encoded[0].crops.tokens.shape[1])
        for crop_sets in crop_batches(encoded, bytes_a_crop=bytes_a_crop, budget_bytes=self._config.cache_bytes // 2):
            for crop_set, part in zip(crop_sets, self._decode(images, encoded, crop_sets), strict=True):
                captions[crop_set.image] += part
        return [_in_order(part, image.kinds) for part, image in zip(captions, images, strict=True)]

    def _decode(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage], crop_sets: Sequence[CropSet]
    ) -> list[list[GeneratedCaption]]:
        unique_crop_of, tokens = gather(encoded, crop_sets)
        embeddings = [encoded[crop_set.image].embeddings(crop_set.kind) for crop_set in crop_sets]
        others = [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]
        image_bytes = self.towers.image_bytes(*tokens.shape[:2])
        self.towers.set_image_tokens(tokens)
        decoding = PrefixTreeDecoding(
            self.towers,
            self.vocabulary,
            others=join_others(others),
            rows=self._rows(images, crop_sets),
            limits=DecodingLimits.of(self._config, self.special, image_bytes=image_bytes),
            unique_crop_of=unique_crop_of,
        )
        decoding.run()
        self.counts.include(decoding.counts, image_bytes=image_bytes)
        record(CACHE_BYTES, decoding.counts.peak_cache_bytes + image_bytes)
        return self._collect(images, crop_sets, decoding, others)

    def _rows(self, images: Sequence[ImageCrops], crop_sets: Sequence[CropSet]) -> SamplerRows:
        sets = [(images[crop_set.image], crop_set.kind) for crop_set in crop_sets]
        keys = [
            DrawKey(self._seed, image.image_id, mask_index, image.kinds[kind], rule.label)
            for image, kind in sets
            for mask_index in image.mask_indices
            for rule in self._samplers
        ]
        num_crops = sum(image.num_masks for image, _ in sets)
        top_k = np.array([rule.top_k or 0 for rule in self._samplers], dtype=np.int64)
        top_p = np.array([rule.top_p or 1.0 for rule in self._samplers], dtype=np.float64)
        return SamplerRows(
            target=np.repeat(np.arange(num_crops), len(self._samplers)),
            top_k=np.tile(top_k, num_crops),
            top_p=np.tile(top_p, num_crops),
            uniform=draws(keys, self._config.max_length),
        )

    def _collect(
        self,
        images: Sequence[ImageCrops],
        crop_sets: Sequence[CropSet],
        decoding: PrefixTreeDecoding,
        others: Sequence[Others],
    ) -> list[list[GeneratedCaption]]:
        captions: list[list[GeneratedCaption]] = []
        crop = 0
        for crop_set, chosen in zip(crop_sets, others, strict=True):
            image = images[crop_set.image]
            kind, part = image.kinds[crop_set.kind], []
            others_of = _named_others(chosen, image)
            for number in range(image.num_masks):
                best = decoding.searches[crop].result()
                part.append(GeneratedCaption(number, kind, DecodingRule("beam"), best.tokens, best.log_prob))
                for row, rule in enumerate(self._samplers, start=crop * len(self._samplers)):
                    tokens, log_prob = decoding.sampled(row)
                    part.append(
                        GeneratedCaption(
                            number, kind, rule, tokens, log_prob, chosen.how, chosen.num_others, others_of[number]
                        )
                    )
                crop += 1
            captions.append(part)
        return captions


def _named_others(others: Others, image: ImageCrops) -> list[tuple[int, ...]]:
    """For each mask `MaskRecord.index` of the masks that were chosen as its others; empty if no choice was made."""
    if others.how != "nearest":
        return [()] * image.num_masks
    return [tuple(image.mask_indices[other] for other in row) for row in others.indices.tolist()]


def _in_order(captions: list[GeneratedCaption], kinds: Sequence[str]) -> list[GeneratedCaption]:
    order = {kind: number for number, kind in enumerate(kinds)}
    # Stable: the captions of a crop keep the order of their rules.
    return sorted(captions, key=lambda caption: (caption.mask_number, order[caption.crop]))
