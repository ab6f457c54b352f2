"""A captioner of our own that comes by plug-in: a CLIP says which words fit a mask, and they are drawn.

`annotated_scenes` finds it by the entry point in `captioners/`, as users' captioners are found. No text comes out of a
decoder, so its errors are other ones than those of CoCa; it gives no probabilities, so draws are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby
from random import Random
from typing import Any, Final

import numpy as np

from evidence.recipes.scene_texts import realise
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import (
    CROP_MASKED,
    CaptionSample,
    ExpressionRecord,
    MaskRecord,
    Shard,
    ShardImage,
    crop_context,
)
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES
from pseudoris.synthworld.grammar import Description
from pseudoris.workers.checkpoints.weight_files import tensors_digest
from pseudoris.workers.crops.crops import mask_crops
from pseudoris.workers.crops.shard_pixels import Decode, prefetched_pixels
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.stages import STAGE_CAPTION

DRAWS: Final = 14  # of each of two crops
_SCALES: Final = {crop_context(1.2): 1.2, CROP_MASKED: None}
# How often each is said, and what may be said.
_SAID: Final[Mapping[str, tuple[float, Sequence[Any]]]] = {
    "colour": (0.6, tuple(COLOURS)),
    "pattern": (0.5, PATTERNS),
    "size": (0.4, SIZES),
    "part": (0.6, (None, *PARTS)),
}
# Of cosines: so that half of the draws of a mask are not the likeliest.
_TEMPERATURE: Final = 0.02


class WordCaptioner:
    """Draws a noun by a CLIP of `captions.architecture` and `captions.weights`, and then what describes it."""

    OPTIONS: Final = frozenset[str]()

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load CLIP."""
        clip = FilterConfig(architecture=config.architecture or "", weights=config.weights)
        self._embedder, self._seed = ClipEmbedder(clip, compute), compute.seed
        self._texts = cache(self._embedded)

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of CLIP's weights."""
        return tensors_digest(config.weights)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions`, unscored; see `apply_to_images` for errors."""
        with prefetched_pixels(list(shard.images), self._embedder.device) as decode:
            return apply_to_images(shard, STAGE_CAPTION, partial(self._captioned, decode))

    def _embedded(self, texts: tuple[Description, ...]) -> Floats:
        said = [realise(each, opening="a photo of") for each in texts]
        return np.asarray(self._embedder.embed_texts(said), np.float64)

    def _captioned(self, decode: Decode, image: ShardImage) -> ShardImage:
        if not image.masks:
            return image
        crop_format, device = self._embedder.crop_format, self._embedder.device
        crops = mask_crops(decode(image), image.masks, [*_SCALES.values()], crop_format, device)
        vectors = np.asarray(self._embedder.embed_crops(iter([crops.flatten(0, 1)])), np.float64)
        seen = vectors.reshape(len(_SCALES), len(image.masks), -1)
        said = (each for at, mask in enumerate(image.masks) for each in self._candidates(mask, seen[:, at]))
        return replace(image, expressions=tuple(said))

    def _candidates(self, mask: MaskRecord, seen: Floats) -> Iterator[ExpressionRecord]:
        draw = Random(f"{self._seed} {mask.mask_id}")
        samples = {crop: CaptionSample(crop, "top_k", 1, None, None) for crop in _SCALES}
        drawn = [
            (self._text(draw, of_crop), samples[crop])
            for crop, of_crop in zip(_SCALES, seen, strict=True)
            for _ in range(DRAWS)
        ]
        for text, rows in groupby(sorted(drawn, key=lambda row: row[0]), key=lambda row: row[0]):
            yield ExpressionRecord((mask.mask_id,), text, tuple(sample for _, sample in rows))

    def _text(self, draw: Random, seen: Floats) -> str:
        (said,) = self._drawn(draw, seen, [Description(each) for each in CATEGORIES])
        told = [name for name, (share, _) in _SAID.items() if draw.random() < share]
        for name in told:
            ways = [replace(Description(said.category), **{name: each}) for each in _SAID[name][1]]
            (found,) = self._drawn(draw, seen, ways)
            said = replace(said, **{name: getattr(found, name)})
        return realise(said, opening=draw.choice(("", "a picture of")))

    def _drawn(self, draw: Random, seen: Floats, texts: Sequence[Description]) -> list[Description]:
        odds = self._texts(tuple(texts)) @ seen / _TEMPERATURE
        return draw.choices(texts, np.exp(odds - odds.max()).tolist())
