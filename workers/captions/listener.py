"""Scores candidates with the captioner as listener: how likely is candidate t of mask i under the crops of all masks?

    caption_score(i, t)  =  log p(t | crop i)
    truth(i, t)          =  caption_score(i, t) / number of tokens of t, EOS included
    listener(i, t)       =  softmax over masks k at i of  log p(t | crop k) / temperature

A mask alone in its image has listener 1, because there is no other mask to confuse it with. With several crop kinds,
log p is the mean over the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pseudoris.schemas.caption_settings import ListeningConfig
from pseudoris.schemas.config import CaptionsConfig, SamplingConfig
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.distinctive import choose_others
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.prefix_tree import Bools, Ints
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.captions.teacher_forcing import Floats, TeacherForcing, TextPrefixes, TokenRows
from pseudoris.workers.captions.unique_crops import CropSet, EncodedImage, crop_batches, gather
from pseudoris.workers.device import to_host


@dataclass(frozen=True, slots=True)
class ListenerScores:
    """The scores of R candidates, (R,) float64 each."""

    caption_score: Floats
    listener: Floats
    truth: Floats


@dataclass(frozen=True, slots=True)
class _Image:
    """One image's candidates, and the masks to compare each one with.

    Attributes:
        encoded: Its crops of the kinds that the listener uses.
        texts: R candidates.
        targets: (R,) numbers of their masks.
        asked: (N, N) bool, the masks whose crops score a candidate of each mask, including its own.
        sums: (R, N) float64, log-probabilities summed over the kinds so far.
    """

    encoded: EncodedImage
    texts: TokenRows
    targets: Ints
    asked: Bools
    sums: Floats


class Listener:
    """Scores the candidates of images under the crops that their captioner has encoded."""

    def __init__(
        self,
        engine: CachedEngine,
        config: CaptionsConfig,
        listening: ListeningConfig,
        encode: Callable[[str], list[int]],
    ) -> None:
        """Share the engine's towers and caches; `encode` returns a text's token ids without SOT and EOS."""
        self._engine, self._config, self._listening, self._encode = engine, config, listening, encode
        # Pairs (prefix, unique crop) computed so far. For benchmarks.
        self.num_computed = 0

    def listen(
        self,
        crops: ImageCrops,
        encoded: EncodedImage,
        masks: Sequence[MaskRecord],
        expressions: Sequence[ExpressionRecord],
    ) -> tuple[ExpressionRecord, ...]:
        """Return an image's candidates, each of one mask, with their scores."""
        if not expressions:
            return ()
        number_of = {mask.mask_id: number for number, mask in enumerate(masks)}
        targets = np.array([number_of[each.target_mask_ids[0]] for each in expressions], dtype=np.int64)
        scores = self.scores(crops, encoded, targets, [each.text for each in expressions])
        columns = zip(scores.caption_score.tolist(), scores.listener.tolist(), scores.truth.tolist(), strict=True)
        return tuple(
            replace(each, caption_score=caption_score, listener=listener, truth=truth)
            for each, (caption_score, listener, truth) in zip(expressions, columns, strict=True)
        )

    @torch.inference_mode()
    def scores(self, crops: ImageCrops, encoded: EncodedImage, targets: Ints, texts: Sequence[str]) -> ListenerScores:
        """Return the scores of R texts of one image, at least one text.

        Args:
            crops: Of the image.
            encoded: The encodings of `crops`.
            targets: (R,) int64, numbers of the texts' masks.
            texts: R candidates.
        """
        image = self._image(crops, encoded, targets, texts)
        bytes_a_crop = self._engine.towers.image_bytes(1, encoded.crops.tokens.shape[1])
        for crop_sets in crop_batches(
            [image.encoded], bytes_a_crop=bytes_a_crop, budget_bytes=self._config.cache_bytes // 2
        ):
            self._read(image, crop_sets)
        return _scores_of(image, self._listening)

    def _image(self, crops: ImageCrops, encoded: EncodedImage, targets: Ints, texts: Sequence[str]) -> _Image:
        kinds = [crops.kinds.index(kind) for kind in self._listening.crops]
        embeddings = encoded.embeddings(kinds[0])
        limit = SamplingConfig(max_others=self._listening.max_others, above_max_others="nearest")
        (others,) = to_host(choose_others(embeddings @ embeddings.t(), limit).indices)
        asked = np.eye(crops.num_masks, dtype=np.bool_)
        asked[np.arange(crops.num_masks)[:, None], others] = True
        tokens = TokenRows.of(
            [self._encode(text) for text in texts],
            eos=self._engine.special.eos,
            max_prefix_length=self._engine.towers.max_prefix_length,
        )
        of_kinds = EncodedImage(encoded.crops, encoded.unique_crop_of[kinds])
        return _Image(of_kinds, tokens, targets, asked, np.zeros((len(texts), crops.num_masks)))

    def _read(self, image: _Image, crop_sets: Sequence[CropSet]) -> None:
        """Add the log-probabilities under the crops of some kinds to the image's sums."""
        engine = self._engine
        unique_crop_of, image_tokens = gather([image.encoded], crop_sets)
        unique_crop_of = unique_crop_of.reshape(len(crop_sets), -1)
        engine.towers.set_image_tokens(image_tokens)
        budget = prefix_budget(self._config, image_bytes=engine.towers.image_bytes(*image_tokens.shape[:2]))
        forcing = TeacherForcing(engine.towers, engine.vocabulary, engine.special, budget_bytes=budget)
        log_probs = forcing.read(self._prefixes(image, unique_crop_of, num_unique_crops=len(image_tokens)))
        self.num_computed += forcing.num_computed
        for unique_crops_of_kind in unique_crop_of:
            image.sums[:] += log_probs[:, unique_crops_of_kind]

    def _prefixes(self, image: _Image, unique_crop_of: Ints, *, num_unique_crops: int) -> TextPrefixes:
        num_masks = unique_crop_of.shape[1]
        shows = np.zeros((num_masks, num_unique_crops), np.int64)
        for unique_crops_of_kind in unique_crop_of:
            np.add.at(shows, (np.arange(num_masks), unique_crops_of_kind), 1)
        asked = (image.asked @ shows) > 0
        give_up_at = np.full(len(image.targets), -np.inf)
        if self._listening.min_truth is not None:
            # A log-probability only falls as tokens are added: once it is below this sum, the mean over the kinds stays
            # below the bound.
            so_far = image.sums[np.arange(len(image.targets)), image.targets]
            num_kinds = len(self._listening.crops)
            give_up_at = self._listening.min_truth * num_kinds * image.texts.lengths - so_far
        return TextPrefixes(image.texts, asked[image.targets], shows[image.targets], give_up_at)


def _scores_of(image: _Image, listening: ListeningConfig) -> ListenerScores:
    scores = image.sums / len(listening.crops)
    rows = np.arange(len(scores))
    own = scores[rows, image.targets]
    truth = own / image.texts.lengths
    odds = np.where(image.asked[image.targets], scores / listening.temperature, -np.inf)
    odds -= odds.max(axis=1, keepdims=True)
    share = np.exp(odds[rows, image.targets]) / np.exp(odds).sum(axis=1)
    if listening.min_truth is not None:
        share[truth <= listening.min_truth] = 0.0
    return ListenerScores(own, share, truth)
