"""The decoding loop: all decoders, masks and crop kinds of one image walk down one prefix tree together.

Images are not mixed, so that every matrix has a shape that follows from the image alone: the same image
gives the same captions in any shard and beside any other image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from open_clip.coca_model import CoCa

from schemas.config import CaptionsConfig
from schemas.errors import ConfigError
from workers.captions.drafts import Decoder, Draft, ImageCrops, configured_decoders
from workers.captions.randomness import DrawKey, draws
from workers.captions.rules import Others, choose_others
from workers.captions.sampling import SamplerRows
from workers.captions.towers import CachedDecoder, EncodedCrops, encode_crops
from workers.captions.vocabulary import SpecialTokens, Vocabulary
from workers.captions.walk import TreeWalk, WalkRules


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3)."""

    def __init__(self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int) -> None:
        """Wrap a model in eval mode, on its device and in its dtype.

        Raises:
            ConfigError: An architecture that cannot be decoded, or one with too few positions.
        """
        self._model, self._special, self._config, self._seed = model, special, config, seed
        self._decoder = CachedDecoder(model)
        self._vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), special.eos)
        positions = self._decoder.max_prefix_length
        if config.max_length - 1 > positions:
            raise ConfigError(
                f"captions.max_length={config.max_length} needs {config.max_length - 1} positions, the architecture "
                f"{config.architecture} has {positions}: --set captions.max_length={positions + 1} or less"
            )

    @torch.inference_mode()
    def drafts(self, image: ImageCrops) -> list[Draft]:
        """Return one draft a mask, crop kind and decoder, in this order."""
        encoded = encode_crops(self._model, image.pixels.flatten(0, 1))
        drafts: list[Draft] = []
        for kinds in self._passes(image, encoded.tokens.shape[1]):
            part = slice(kinds.start * image.num_masks, kinds.stop * image.num_masks)
            crops = EncodedCrops(encoded.embeddings[part], encoded.tokens[part])
            drafts += self._decode(replace(image, kinds=image.kinds[kinds], pixels=image.pixels[kinds]), crops)
        order = {kind: number for number, kind in enumerate(image.kinds)}
        # Stable: a crop's decoders keep their order.
        return sorted(drafts, key=lambda draft: (draft.place, order[draft.crop]))

    def _passes(self, image: ImageCrops, num_tokens: int) -> Iterator[slice]:
        """Crop kinds that are decoded together: as many as leave half of the budget to the prefixes' caches."""
        a_kind = self._decoder.image_bytes(image.num_masks, num_tokens)
        together = max(1, (self._config.cache_bytes // 2) // a_kind)
        for first in range(0, len(image.kinds), together):
            yield slice(first, min(first + together, len(image.kinds)))

    def _decode(self, image: ImageCrops, crops: EncodedCrops) -> list[Draft]:
        others = self._others(image, crops.embeddings)
        samplers = [decoder for decoder in configured_decoders(self._config) if decoder.name != "beam"]
        self._decoder.begin(crops.tokens)
        walk = TreeWalk(
            self._decoder,
            self._vocabulary,
            others=others,
            rows=self._rows(image, samplers),
            rules=WalkRules.of(self._config, self._special, image_bytes=self._image_bytes(crops)),
        )
        walk.run()
        return self._collect(image, samplers, walk, others)

    def _image_bytes(self, crops: EncodedCrops) -> int:
        return self._decoder.image_bytes(*crops.tokens.shape[:2])

    def _others(self, image: ImageCrops, embeddings: torch.Tensor) -> Others:
        """The others of every crop: those of its kind, as numbers among all crops of the pass."""
        by_kind = embeddings.view(len(image.kinds), image.num_masks, -1)
        parts = [choose_others(kind @ kind.t(), self._config.sampling) for kind in by_kind]
        indices = [part.indices + number * image.num_masks for number, part in enumerate(parts)]
        return Others(torch.cat(indices), torch.cat([part.weights for part in parts]), parts[0].how)

    def _rows(self, image: ImageCrops, samplers: Sequence[Decoder]) -> SamplerRows:
        crops = itertools.product(image.kinds, image.mask_indices)
        keys = [
            DrawKey(self._seed, image.image_id, mask_index, kind, decoder.label)
            for kind, mask_index in crops
            for decoder in samplers
        ]
        num_crops = len(image.kinds) * image.num_masks
        return SamplerRows(
            target=np.repeat(np.arange(num_crops), len(samplers)),
            top_k=np.tile(np.array([decoder.top_k or 0 for decoder in samplers], dtype=np.int64), num_crops),
            top_p=np.tile(np.array([decoder.top_p or 1.0 for decoder in samplers], dtype=np.float64), num_crops),
            uniform=draws(keys, self._config.max_length),
        )

    def _collect(self, image: ImageCrops, samplers: Sequence[Decoder], walk: TreeWalk, others: Others) -> list[Draft]:
        drafts = []
        num_others = others.indices.shape[1]
        for crop, (kind, place) in enumerate(itertools.product(image.kinds, range(image.num_masks))):
            best = walk.searches[crop].result()
            drafts.append(Draft(place, kind, Decoder("beam"), best.tokens, best.log_prob))
            for row, decoder in enumerate(samplers, start=crop * len(samplers)):
                tokens, log_prob = walk.sampled(row)
                drafts.append(Draft(place, kind, decoder, tokens, log_prob, others.how, num_others))
        return drafts
