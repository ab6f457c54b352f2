"""Another CLIP's opinion (`grounding_check`): which mask does each caption refer to?

`workers/stages.py` builds it before the scorer, whose rule may bound its answers; `vlm_check` calls `choices`. For the
masks k of an image and a caption t

    score(k, t) = (cos(context crop k, t) + cos(masked crop k, t)) / 2
    share(k, t) = softmax over k of score(k, t) / temperature

It says whether the caption's own mask has the highest score, its share, and the other mask with the highest score. The
crops must be those of the scorer at its defaults. A mask that is alone in its image has the share 1 and no rival.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from pseudoris.schemas.config import ComputeConfig, FilterConfig, GroundingCheckConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.filtering.scorer import (
    Vectors,
    candidates_of,
    captions_of,
    embed_crops,
    first_twins,
    with_candidates,
)
from pseudoris.workers.stages import STAGE_FILTER, open_clip_digest


@dataclass(frozen=True, slots=True)
class Choices:
    """What a model says of T captions of one image.

    Attributes:
        is_target: (T,) bool, no other mask has a higher score.
        share: (T,) float64 in [0, 1], the target's probability among the masks.
        rival: (T,) int64, the other mask with the highest score, the first of equals; None if the image has one mask.
    """

    is_target: npt.NDArray[np.bool_]
    share: Floats
    rival: npt.NDArray[np.int64] | None

    def onto(self, image: ShardImage) -> ShardImage:
        """Return the image with its T candidates told, in order."""
        told = (
            replace(
                each,
                grounding_choice=float(self.is_target[row]),
                grounding_share=float(self.share[row]),
                grounding_rival=None if self.rival is None else image.masks[int(self.rival[row])].mask_id,
            )
            for row, each in enumerate(candidates_of(image)[0])
        )
        return with_candidates(image, told)


def choices(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Choices:
    """Return what logits (N, T) of N masks say of T captions, with masks `targets` (T,) int; ValueError for NaN."""
    table, target = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    if not np.isfinite(table).all():
        raise ValueError("a logit is not finite: the weights or the crop hold NaN")
    own = np.arange(len(target))
    likely = np.exp(table - table.max(axis=0))
    share = likely[target, own] / likely.sum(axis=0)
    if len(table) == 1:
        return Choices(np.ones(len(target), np.bool_), share, rival=None)
    others = table.copy()
    others[target, own] = -np.inf
    return Choices(table[target, own] >= others.max(axis=0), share, rival=others.argmax(axis=0))


class ClipCheck:
    """Sets choice, share and rival of every expression of one mask."""

    weights_digest = staticmethod(open_clip_digest)

    def __init__(self, config: GroundingCheckConfig, compute: ComputeConfig) -> None:
        """Load CLIP."""
        scorer = FilterConfig(architecture=config.architecture or "", weights=config.weights)
        self._temperature = config.temperature
        self._context_scale = scorer.context_scale
        self._embedder = ClipEmbedder(scorer, compute)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with every candidate of one mask told; see `apply_to_images` for errors."""
        started = time.perf_counter()
        images, vectors = embed_crops(shard, self._embedder, self._context_scale)
        texts = captions_of(images)
        rows = {text: row for row, text in enumerate(texts)}
        embedded = self._embedder.embed_texts(texts)
        told = partial(self._told, vectors=vectors, texts=embedded, rows=rows)
        done = apply_to_images(shard.with_images(images), STAGE_FILTER, told).images
        return shard.with_images(done).with_seconds(STAGE_FILTER, time.perf_counter() - started)

    def _told(
        self, image: ShardImage, *, vectors: Mapping[str, Vectors], texts: torch.Tensor, rows: Mapping[str, int]
    ) -> ShardImage:
        if image.image_id not in vectors:
            return image
        candidates, targets = candidates_of(image)
        context, masked = vectors[image.image_id]
        cosines = (context + masked) @ texts[[rows[each.text] for each in candidates]].T / 2
        return choices(cosines[first_twins(image)] / self._temperature, targets).onto(image)
