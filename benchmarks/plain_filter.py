"""A filter that shares nothing, as the other side of the filter's benchmark: plain, but batched.

Crops are cut one by one and embedded an image at a time; each candidate's caption and prompt are embedded over the
whole context, equal strings again and again. Scores are those of `workers.filtering.scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import open_clip
import torch

from benchmarks.crops import Case, in_float32, one_by_one
from schemas.config import RunConfig
from schemas.shard import Shard, ShardImage
from workers.checkpoints.models import load_clip
from workers.filtering.embedding import crop_format
from workers.filtering.nouns import noun_finder, noun_prompt
from workers.filtering.scores import score_candidates
from workers.images.decoding import decode_proven

# Strings a forward pass: bounds memory.
TEXTS_A_PASS = 256


class PlainFilter:
    """Scores every candidate of a shard; all of them must have one target."""

    def __init__(self, config: RunConfig) -> None:
        """Load CLIP on the CPU, in float32."""
        self._config = config.filtering
        self._model = load_clip(config.filtering.architecture, config.filtering.weights)
        self._format = crop_format(self._model, config.filtering.weights)
        self._tokenise = open_clip.SimpleTokenizer(context_length=int(self._model.context_length))
        self._find_noun = noun_finder(config.filtering)

    @torch.inference_mode()
    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with the three scores of every candidate."""
        return shard.with_images(tuple(self._scored(image) for image in shard.images))

    def _scored(self, image: ShardImage) -> ShardImage:
        case = Case(
            decode_proven(image.data),
            [mask.rle_counts for mask in image.masks],
            [mask.box_xyxy_px for mask in image.masks],
        )
        scales = (self._config.context_scale, None)
        crops = one_by_one(case, self._format, in_float32, scales=scales)
        context, masked = (self._model.encode_image(kind, normalize=True) for kind in crops)
        captions = [expression.text for expression in image.expressions]
        prompts = [noun_prompt(text, self._find_noun(text)) for text in captions]
        index_of = {mask.mask_id: index for index, mask in enumerate(image.masks)}
        scores = score_candidates(
            context @ self._texts(captions).T,
            masked @ self._texts(prompts).T,
            targets=[index_of[expression.target_mask_ids[0]] for expression in image.expressions],
            min_score=self._config.min_score,
        )
        scored = [
            replace(
                expression,
                uniqueness=None if scores.uniqueness is None else float(scores.uniqueness[row]),
                correctness=float(scores.correctness[row]),
                distinctiveness=None if scores.distinctiveness is None else float(scores.distinctiveness[row]),
            )
            for row, expression in enumerate(image.expressions)
        ]
        return replace(image, expressions=tuple(scored))

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        passes = torch.split(self._tokenise(list(texts)), TEXTS_A_PASS)
        return torch.cat([self._model.encode_text(tokens, normalize=True) for tokens in passes])
