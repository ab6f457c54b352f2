"""The filter stage: scores every candidate expression with CLIP, and marks it as kept or not.

For the T candidates of one image's N masks (method page, section 4; paper section 3.3):

    c(k, t)  cosine of the context crop of mask k with caption t
    m(k, t)  cosine of the masked crop of mask k with "a photo of a {head noun of t}"

    uniqueness(i, t)      = c(i, t) / max over k ≠ i of c(k, t)
    correctness(i, t)     = m(i, t)
    distinctiveness(i, t) = c(i, t)·m(i, t) / max over k ≠ i of c(k, t)·m(k, t)
    rival(i, t)           = argmax over k ≠ i of c(k, t)·m(k, t)

A mask alone in its image has no others. Its uniqueness, distinctiveness and rival are undefined, and only correctness
ranks its candidates. Built by `workers/stages.py`; checks take parts. What is not kept must stay in the tables, scored.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pseudoris.schemas.config import ComputeConfig, FilterConfig
from pseudoris.schemas.fitted import ConfidenceConfig, Floats, Rated, confidences, line_weights, ranks
from pseudoris.schemas.keep_rule import KeepRule, keeps
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.workers.crops.crops import mask_crops
from pseudoris.workers.crops.shard_pixels import prefetched_pixels
from pseudoris.workers.faults.quarantine import apply_to_images, guarded
from pseudoris.workers.filtering.caption_texts import TextMaker, Texts
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.stages import STAGE_FILTER, clip_digest


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """The scores of T candidates; all but the first are None if the image has one mask.

    Attributes:
        correctness: (T,) float64 in [min_cosine, 1].
        uniqueness: (T,) float64, positive.
        distinctiveness: (T,) float64, positive.
        rival: (T,) int64, index of the other mask with the highest score, the first of equals.
    """

    correctness: Floats
    uniqueness: Floats | None
    distinctiveness: Floats | None
    rival: npt.NDArray[np.int64] | None


def score_candidates(
    context: npt.ArrayLike, masked: npt.ArrayLike, *, targets: npt.ArrayLike, min_cosine: float
) -> CandidateScores:
    """Return the scores of the T candidates of one image, from cosines c and m (N, T) in [-1, 1].

    `targets` (T,) int are the masks that the candidates describe, in 0 .. N-1. Cosines are clamped to at least
    `min_cosine`: the product of two negative cosines would rank a mask that fits neither text first.

    Raises:
        ValueError: The shapes disagree, a target is not a mask, or a cosine is not finite. NaN would compare as "not
            above tau", so a broken model would look like a strict filter.
    """
    # Scores are computed in float64, so that a ratio of two float32 cosines is rounded only once.
    c, m = (np.maximum(np.asarray(cosines, dtype=np.float64), min_cosine) for cosines in (context, masked))
    target = np.asarray(targets, dtype=np.int64)
    if c.ndim != 2 or c.shape != m.shape or target.shape != c.shape[1:]:
        raise ValueError(f"expected (N, T), (N, T) and (T,), got {c.shape}, {m.shape} and {target.shape}")
    if target.size and (target.min() < 0 or target.max() >= len(c)):
        raise ValueError(f"targets must lie in 0..{len(c) - 1}, got {target.min()}..{target.max()}")
    if not (np.isfinite(c).all() and np.isfinite(m).all()):
        raise ValueError("a cosine is not finite: the weights or the crop hold NaN")
    own = np.arange(len(target))
    correctness = m[target, own]
    if len(c) == 1:
        return CandidateScores(correctness, uniqueness=None, distinctiveness=None, rival=None)
    product = c * m
    others_c, others_product = c.copy(), product.copy()
    others_c[target, own] = others_product[target, own] = -np.inf
    return CandidateScores(
        correctness,
        uniqueness=c[target, own] / others_c.max(axis=0),
        distinctiveness=product[target, own] / others_product.max(axis=0),
        rival=others_product.argmax(axis=0),
    )


# A listener has set the first three before the scorer, if the run has one. Those of a second opinion are null.
_SET_BEFORE: Final = ("caption_score", "listener", "truth", "grounding_choice", "grounding_share")
# These are the embeddings of one image's context crops and masked crops, (N, D) float32 each, normalised.
Vectors = tuple[torch.Tensor, torch.Tensor]


def embed_crops(shard: Shard, embedder: ClipEmbedder, context_scale: float) -> tuple[Shard, dict[str, Vectors]]:
    """Embed the crops of images with candidates; return the shard, some images quarantined, and vectors by image id."""
    images: list[ShardImage] = []
    counts: dict[str, int] = {}
    made: list[torch.Tensor] = []

    def cut(alone: Sequence[ShardImage]) -> Sequence[ShardImage]:
        (image,) = alone
        crops = mask_crops(decode(image), image.masks, (context_scale, None), embedder.crop_format, embedder.device)
        # The crops become (2N, 3, S, S): the N context crops, then the N masked ones.
        made.append(crops.flatten(0, 1))
        counts[image.image_id] = len(image.masks)
        return alone

    def pieces() -> Iterator[torch.Tensor]:
        for image in shard.images:
            # An error in cutting crops quarantines its image. The model runs later, so that its errors blame no image.
            images.extend(guarded([image], STAGE_FILTER, cut) if has_candidates(image) else [image])
            if made:
                yield made.pop()

    with prefetched_pixels(list(filter(has_candidates, shard.images)), embedder.device) as decode:
        embedded = embedder.embed_crops(pieces())
    parts = torch.split(embedded, [2 * num_masks for num_masks in counts.values()])
    vectors = {image_id: (part[:num], part[num:]) for (image_id, num), part in zip(counts.items(), parts, strict=True)}
    return shard.with_images(tuple(images)), vectors


def first_twins(image: ShardImage) -> list[int]:
    """Return for each mask the number of the first with the same pixels, whose scores it takes.

    So twins (`masks.prior.duplicates=keep`) score exactly alike, whatever rows of a product they are computed in.
    """
    first_of: dict[str, int] = {}
    return [first_of.setdefault(mask.rle_counts, number) for number, mask in enumerate(image.masks)]


class ClipScorer:
    """Sets head noun, uniqueness, correctness, distinctiveness, rival, confidence, rank, weight and `kept`.

    An expression with several targets or none gets no scores, because scores compare one target with the other masks.
    Which images share a shard changes scores at most in the last bits of an embedding.
    """

    weights_digest = staticmethod(clip_digest)

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load CLIP and the noun finder."""
        self._config = config
        self._confidence, lines = config.fitted_values.confidence, config.fitted_values.pair_weight
        self._weight_line = None if lines is None else lines.drawn
        self._embedder = ClipEmbedder(config, compute)
        is_on_gpu = self._embedder.device.type == "cuda"
        self._texts_of = TextMaker(config, self._embedder.tokeniser, is_ahead=is_on_gpu)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with every candidate of one target scored; see `apply_to_images` for errors."""
        started = time.perf_counter()
        for image in shard.images:
            self._texts_of.begin(captions_of([image]))
        shard, vectors = embed_crops(shard, self._embedder, self._config.context_scale)
        made = self._texts_of(captions_of(shard.images))
        # Each distinct caption and prompt is embedded once.
        pairs = (zip((caption, prompt), both, strict=True) for caption, (_, prompt, *both) in made.items())
        tokens = dict(chain.from_iterable(pairs))
        embedded = dict(zip(tokens, self._embedder.embed_tokens(list(tokens.values())), strict=True))
        score = partial(self._scored, vectors=vectors, made=made, texts=embedded)
        return apply_to_images(shard.with_seconds(STAGE_FILTER, time.perf_counter() - started), STAGE_FILTER, score)

    def _scored(
        self, image: ShardImage, *, vectors: Mapping[str, Vectors], made: Texts, texts: Mapping[str, torch.Tensor]
    ) -> ShardImage:
        if image.image_id not in vectors:
            return image
        candidates, targets = candidates_of(image)
        firsts = first_twins(image)
        context, masked = vectors[image.image_id]
        nouns, prompts, *_ = zip(*(made[e.text] for e in candidates), strict=True)
        scores = score_candidates(
            (context @ torch.stack([texts[e.text] for e in candidates]).T)[firsts],
            (masked @ torch.stack([texts[prompt] for prompt in prompts]).T)[firsts],
            targets=targets,
            min_cosine=self._config.min_cosine,
        )
        columns = _columns(candidates, scores, self._confidence)
        rule = KeepRule(self._config.tau, self._config.keep, lone_masks=self._config.lone_masks)
        kept = keeps(rule, columns, [e.target_mask_ids[0] for e in candidates])
        weights = line_weights(self._weight_line, columns["confidence"]).tolist()
        # Undefined scores (NaN) become null in the table.
        known: dict[str, list[Any]] = {
            name: [None if np.isnan(value) else value for value in columns[name].tolist()]
            for name in ("uniqueness", "correctness", "distinctiveness", "confidence")
        }
        scored = (
            replace(
                e,
                **{name: values[row] for name, values in known.items()},
                head_noun=nouns[row],
                rival_mask_id=None if scores.rival is None else image.masks[int(scores.rival[row])].mask_id,
                rank=None if np.isnan(columns["rank"][row]) else int(columns["rank"][row]),
                kept=bool(kept[row]),
                weight=weights[row],
            )
            for row, e in enumerate(candidates)
        )
        return with_candidates(image, scored)


def captions_of(images: Iterable[ShardImage]) -> list[str]:
    """Return the texts of all candidates, each once."""
    return list(dict.fromkeys(each.text for image in images for each in image.expressions if is_candidate(each)))


def is_candidate(expression: ExpressionRecord) -> bool:
    """Return whether an expression is scored: it refers to one mask."""
    return len(expression.target_mask_ids) == 1


def has_candidates(image: ShardImage) -> bool:
    """Return whether an image is not quarantined and has an expression that is scored."""
    return not image.failure and any(map(is_candidate, image.expressions))


def candidates_of(image: ShardImage) -> tuple[list[ExpressionRecord], list[int]]:
    """Return the expressions of an image that are scored, and the number of each one's mask."""
    number_of = {mask.mask_id: number for number, mask in enumerate(image.masks)}
    candidates = [each for each in image.expressions if is_candidate(each)]
    return candidates, [number_of[each.target_mask_ids[0]] for each in candidates]


def with_candidates(image: ShardImage, candidates: Iterable[ExpressionRecord]) -> ShardImage:
    """Return the image with other records of the expressions that are scored, in order."""
    left = iter(candidates)
    return replace(image, expressions=tuple(next(left) if is_candidate(e) else e for e in image.expressions))


def _columns(
    candidates: Sequence[ExpressionRecord], scores: CandidateScores, confidence: ConfidenceConfig | None
) -> dict[str, Floats]:
    """Return the scores that `filtering.keep` may bound, by the names of the table's columns, NaN where undefined."""
    undefined = np.full(len(candidates), np.nan)
    columns = {
        "uniqueness": undefined if scores.uniqueness is None else scores.uniqueness,
        "correctness": scores.correctness,
        "distinctiveness": undefined if scores.distinctiveness is None else scores.distinctiveness,
        "log_prob": np.array([e.samples[0].log_prob if e.samples else np.nan for e in candidates], np.float64),
        "count": np.array([len(e.samples) for e in candidates], np.float64),
        **{name: np.array([getattr(e, name) for e in candidates], np.float64) for name in _SET_BEFORE},
    }
    groups = [e.target_mask_ids[0] for e in candidates]
    rated = Rated(groups, [e.text for e in candidates], columns)
    found = undefined if confidence is None else confidences(rated, confidence)
    return {**columns, "confidence": found, "rank": ranks(found, groups)}
