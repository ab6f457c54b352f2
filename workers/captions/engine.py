"""The decoding loop: all decoders, masks and crop kinds of one image walk down one prefix tree together.

Several images may share the walk. Which ones do is the caller's rule, and must follow from the shard alone: results
depend on it in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from open_clip.coca_model import CoCa

from schemas.config import CaptionsConfig
from schemas.errors import ConfigError
from schemas.measures import CACHE_BYTES, record
from workers.captions.drafts import Decoder, Draft, ImageCrops, configured_decoders
from workers.captions.pictures import EncodedImage, Unit, encode_images, gather, passes
from workers.captions.randomness import DrawKey, draws
from workers.captions.rules import Others, choose_others, join_others
from workers.captions.sampling import SamplerRows
from workers.captions.towers import CachedDecoder
from workers.captions.vocabulary import SpecialTokens, Vocabulary
from workers.captions.walk import TreeWalk, WalkCounts, WalkRules
from workers.compilation import compile_tower


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3)."""

    def __init__(
        self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int, is_compiled: bool = False
    ) -> None:
        """Wrap a model in eval mode, on its device and in its dtype; `is_compiled` as in the configuration.

        Raises:
            ConfigError: An architecture that cannot be decoded, or one with too few positions.
        """
        self._model, self._config, self._seed = model, config, seed
        # A listener reads its candidates over the same towers, caches and vocabulary.
        self.special = special
        self._is_compiled = is_compiled
        if is_compiled:
            compile_tower(model.visual)
        self.decoder = CachedDecoder(model, is_compiled=is_compiled)
        # Of all images so far; a benchmark reads it.
        self.counts = WalkCounts()
        self._samplers = [decoder for decoder in configured_decoders(config) if decoder.name != "beam"]
        self.vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), special.eos)
        positions = self.decoder.max_prefix_length
        if config.max_length - 1 > positions:
            raise ConfigError(
                f"captions.max_length={config.max_length} needs {config.max_length - 1} positions, the architecture "
                f"{config.architecture} has {positions}: --set captions.max_length={positions + 1} or less"
            )

    def drafts(self, image: ImageCrops) -> list[Draft]:
        """Return one draft a mask, crop kind and decoder, in this order."""
        return self.drafts_together([image])[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageCrops]) -> list[EncodedImage]:
        """Return the encodings of the images' crops, at least one image."""
        return encode_images(self._model, images, is_compiled=self._is_compiled)

    @torch.inference_mode()
    def drafts_together(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage] | None = None
    ) -> list[list[Draft]]:
        """Return the drafts of several images, each in the order of `drafts`; `encoded` as by `encode`.

        Their crops walk down one prefix tree. Matrices are larger than those of an image alone, so that the last bits
        of a probability, and once in a while a draw, follow from which images come together.
        """
        encoded = self.encode(images) if encoded is None else encoded
        drafts: list[list[Draft]] = [[] for _ in images]
        bytes_a_crop = self.decoder.image_bytes(1, encoded[0].crops.tokens.shape[1])
        for units in passes(encoded, bytes_a_crop=bytes_a_crop, budget_bytes=self._config.cache_bytes // 2):
            for unit, part in zip(units, self._decode(images, encoded, units), strict=True):
                drafts[unit.image] += part
        return [_in_order(part, image.kinds) for part, image in zip(drafts, images, strict=True)]

    def _decode(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage], units: Sequence[Unit]
    ) -> list[list[Draft]]:
        picture_of, tokens = gather(encoded, units)
        embeddings = [encoded[unit.image].embeddings(unit.kind) for unit in units]
        others = [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]
        image_bytes = self.decoder.image_bytes(*tokens.shape[:2])
        self.decoder.begin(tokens)
        walk = TreeWalk(
            self.decoder,
            self.vocabulary,
            others=join_others(others),
            rows=self._rows(images, units),
            rules=WalkRules.of(self._config, self.special, image_bytes=image_bytes),
            picture_of=picture_of,
        )
        walk.run()
        self.counts.include(walk.counts, image_bytes=image_bytes)
        record(CACHE_BYTES, walk.counts.peak_cache_bytes + image_bytes)
        return self._collect(images, units, walk, others)

    def _rows(self, images: Sequence[ImageCrops], units: Sequence[Unit]) -> SamplerRows:
        keys = [
            DrawKey(self._seed, images[unit.image].image_id, mask_index, images[unit.image].kinds[unit.kind], decoder)
            for unit in units
            for mask_index in images[unit.image].mask_indices
            for decoder in (sampler.label for sampler in self._samplers)
        ]
        num_crops = sum(images[unit.image].num_masks for unit in units)
        top_k = np.array([decoder.top_k or 0 for decoder in self._samplers], dtype=np.int64)
        top_p = np.array([decoder.top_p or 1.0 for decoder in self._samplers], dtype=np.float64)
        return SamplerRows(
            target=np.repeat(np.arange(num_crops), len(self._samplers)),
            top_k=np.tile(top_k, num_crops),
            top_p=np.tile(top_p, num_crops),
            uniform=draws(keys, self._config.max_length),
        )

    def _collect(
        self, images: Sequence[ImageCrops], units: Sequence[Unit], walk: TreeWalk, others: Sequence[Others]
    ) -> list[list[Draft]]:
        drafts: list[list[Draft]] = []
        crop = 0
        for unit, chosen in zip(units, others, strict=True):
            image = images[unit.image]
            kind, part = image.kinds[unit.kind], []
            for place in range(image.num_masks):
                best = walk.searches[crop].result()
                part.append(Draft(place, kind, Decoder("beam"), best.tokens, best.log_prob))
                counted = _masks_that_count(chosen, image, place)
                for row, decoder in enumerate(self._samplers, start=crop * len(self._samplers)):
                    tokens, log_prob = walk.sampled(row)
                    part.append(Draft(place, kind, decoder, tokens, log_prob, chosen.how, chosen.num_others, counted))
                crop += 1
            drafts.append(part)
        return drafts


def _masks_that_count(others: Others, image: ImageCrops, place: int) -> tuple[int, ...]:
    """Indices of the masks that were chosen as others; empty where no choice was made."""
    if others.how != "nearest":
        return ()
    return tuple(image.mask_indices[other] for other in others.indices[place].tolist())


def _in_order(drafts: list[Draft], kinds: Sequence[str]) -> list[Draft]:
    order = {kind: number for number, kind in enumerate(kinds)}
    # Stable: a crop's decoders keep their order.
    return sorted(drafts, key=lambda draft: (draft.place, order[draft.crop]))
