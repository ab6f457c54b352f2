"""A captioner that reads its draws from a file, and a scorer that finds every noun equally right, for tests.

The file of `captions.options.file` is JSON: by image key, for each mask by its index, how often each text was drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Shard, ShardImage
from pseudoris.workers.faults.quarantine import apply_to_images


class ToldCaptioner:
    OPTIONS = frozenset({"file"})

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        self._said = json.loads(Path(str(config.options["file"])).read_text(encoding="utf-8"))

    def __call__(self, shard: Shard) -> Shard:
        return apply_to_images(shard, "caption", self._caption)

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        return sha256_hex(Path(str(config.options["file"])).read_bytes())

    def _caption(self, image: ShardImage) -> ShardImage:
        return replace(image, expressions=tuple(self._records(image)))

    def _records(self, image: ShardImage) -> Iterator[ExpressionRecord]:
        for mask in image.masks:
            top_k = 0
            for text, counted in self._said[image.key][mask.index].items():
                counts = counted if isinstance(counted, dict) else {"masked": counted}
                crops = [crop for crop, count in counts.items() for _ in range(count)]
                draws = [CaptionSample(crop, "top_k", at, None, -1.0) for at, crop in enumerate(crops, start=top_k + 1)]
                yield ExpressionRecord((mask.mask_id,), text, tuple(draws))
                top_k += len(crops)


class FlatScorer:
    """Finds heads by rules; each correctness is 0.25, and nothing is kept."""

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        pass

    def __call__(self, shard: Shard) -> Shard:
        return apply_to_images(shard, "filter", self._score_all)

    @classmethod
    def weights_digest(cls, config: FilterConfig) -> str:
        return sha256_hex(b"flat")

    def _score_all(self, image: ShardImage) -> ShardImage:
        return replace(image, expressions=tuple(self._score(image, each) for each in image.expressions))

    def _score(self, image: ShardImage, expression: ExpressionRecord) -> ExpressionRecord:
        noun = head_noun(expression.text)
        others = [mask.mask_id for mask in image.masks if mask.mask_id not in expression.target_mask_ids]
        if not others:
            return replace(expression, head_noun=noun, correctness=0.25)
        return replace(
            expression, head_noun=noun, correctness=0.25, uniqueness=0.25, distinctiveness=1.0, rival_mask_id=others[0]
        )
