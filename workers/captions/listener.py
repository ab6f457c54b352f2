"""Scores candidates with the captioner as listener: how likely is candidate t of mask i under the crops of all masks?

    caption_score(i, t)  =  log p(t | crop i)
    truth(i, t)          =  caption_score(i, t) / number of tokens of t, EOS included
    listener(i, t)       =  softmax over masks k at i of  log p(t | crop k) / temperature

A mask alone in its image has listener 1, because there is no other mask to confuse it with. With several crop kinds,
log p is the mean over the kinds.

`TeacherForcing` computes log p over one prefix tree of the texts: texts of several masks share their prefixes, and the
text tower computes a prefix once for all crops. A GPU computes it in fixed shapes (`static_engine`). The softmax is
over the whole vocabulary, without a kept set, and EOS may follow any token. Called by `captioner.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig, SamplingConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord
from pseudoris.schemas.stage_settings import ListeningConfig
from pseudoris.workers.captions.decoding_rules import Bools, ImageCrops, Ints, PrefixLevel, Towers, extend
from pseudoris.workers.captions.distinctive import choose_others
from pseudoris.workers.captions.engine import CachedEngine, CropSet, EncodedImage, crop_batches, gather_crops
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.captions.static_engine import StaticEngine
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The tokens of R texts, EOS included.

    Attributes:
        tokens: (R, L) int64, padded with EOS.
        lengths: (R,) number of tokens of each text.
    """

    tokens: Ints
    lengths: Ints

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], *, eos: int, max_prefix_length: int) -> Self:
        """Take token ids without SOT and EOS; a text is cut at `max_prefix_length`, SOT included."""
        cut = [[*text[: max_prefix_length - 1], eos] for text in texts]
        lengths = np.array([len(text) for text in cut], dtype=np.int64)
        tokens = np.full((len(cut), int(lengths.max(initial=0))), eos, dtype=np.int64)
        for row, text in enumerate(cut):
            tokens[row, : len(text)] = text
        return cls(tokens, lengths)


@dataclass(frozen=True, slots=True)
class _Branch:
    """Texts whose prefixes are computed together.

    Attributes:
        active: (R',) int64, numbers of the texts.
        parents: (R',) int64, index of each text's prefix in `level`.
        level: Prefixes of `length` tokens after SOT; None before the first.
        cache_index: Cache nodes of the prefixes.
        length: Number of tokens read.
    """

    active: Ints
    parents: Ints
    level: PrefixLevel | None = None
    cache_index: Any = None
    length: int = 0


class TeacherForcing:
    """Scores texts with towers that attend to the unique crops."""

    def __init__(self, towers: Towers, vocabulary: Vocabulary, special: SpecialTokens, *, budget_bytes: int) -> None:
        """Keep the towers. The caches of prefixes stay below `budget_bytes`."""
        self._towers, self._vocabulary, self._sot = towers, vocabulary, special.sot
        self._budget_bytes = budget_bytes

    @torch.inference_mode()
    def read(self, texts: TokenRows, asked: Bools) -> Floats:
        """Return Σ log p(token | prefix, crop) of R texts under the P unique crops that each is `asked` of.

        Args:
            texts: R texts.
            asked: (R, P) bool, the crops to score each text under.

        Returns:
            (R, P) float64, 0 where not asked.

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        rows = np.arange(len(asked))
        self._texts, self._asked, self._sums = texts, asked, np.zeros(asked.shape)
        self._descend(_Branch(rows, np.zeros_like(rows)))
        return self._sums

    def _descend(self, branch: _Branch) -> None:
        texts = self._texts
        while len(branch.active):
            active, length = branch.active, branch.length
            newest = texts.tokens[active, length - 1] if length else np.full(len(active), self._sot, np.int64)
            next_level = extend(branch.level, branch.parents, newest, self._asked[active])
            num_steps = int(texts.lengths[active].max()) - length
            if len(active) > 1 and self._towers.bytes_after(next_level, num_steps) > self._budget_bytes:
                mark = self._towers.mark()
                # Texts with a common prefix stay together if possible.
                for half in np.array_split(np.argsort(branch.parents, kind="stable"), 2):
                    self._descend(replace(branch, active=active[half], parents=branch.parents[half]))
                    self._towers.rewind(mark)
                return
            self._towers.make_room(next_level, num_steps, self._budget_bytes)
            branch = self._step(branch, next_level)

    def _step(self, branch: _Branch, next_level: PrefixLevel) -> _Branch:
        active, length = branch.active, branch.length
        hidden, cache_index = self._towers.step(next_level, branch.cache_index)
        self._add(active, next_level, hidden, self._texts.tokens[active, length])
        goes_on = self._texts.lengths[active] > length + 1
        return _Branch(active[goes_on], next_level.row_prefix[goes_on], next_level, cache_index, length + 1)

    def _add(self, active: Ints, level: PrefixLevel, hidden: torch.Tensor, following: Ints) -> None:
        """Add the log-probability of each text's next token under each unique crop that it is scored under."""
        row, unique_crop = np.nonzero(self._asked[active])
        pairs = level.pair_of[level.row_prefix[row], unique_crop]
        # Texts with the same next token share its value.
        asked, answer_of = np.unique(pairs * self._vocabulary.size + following[row], return_inverse=True)
        pair, token = (to_device(part, hidden.device) for part in np.divmod(asked, self._vocabulary.size))
        totals = self._vocabulary.log_totals(hidden)
        logits = self._vocabulary.logits_at(hidden[pair], token[:, None])[:, 0]
        answers, is_finite = to_host(logits.double() - totals.double()[pair], all_finite(totals, logits))
        check_finite(is_finite)
        self._sums[active[row], unique_crop] += answers[answer_of]


@dataclass(frozen=True, slots=True)
class ListenerScores:
    """The scores of R candidates, (R,) float64 each."""

    caption_score: Floats
    listener: Floats
    truth: Floats


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
        kinds = [crops.kinds.index(kind) for kind in self._listening.crops]
        embeddings = encoded.embeddings_of(kinds[0])
        limit = SamplingConfig(max_others=self._listening.max_others, above_max_others="nearest")
        (others,) = to_host(choose_others(embeddings @ embeddings.t(), limit).indices)
        num_masks = len(crops.mask_indices)
        # (N, N) gives for each mask the masks whose crops score its candidates, itself included.
        asked = np.eye(num_masks, dtype=np.bool_)
        asked[np.arange(num_masks)[:, None], others] = True
        rows = TokenRows.of(
            [self._encode(text) for text in texts],
            eos=self._engine.special.eos,
            max_prefix_length=self._engine.towers.max_prefix_length,
        )
        of_kinds = replace(encoded, unique_crop_of=encoded.unique_crop_of[kinds])
        sums = np.zeros((len(texts), num_masks))
        for crop_sets in crop_batches(
            [of_kinds], self._engine.towers.image_bytes, budget_bytes=self._config.cache_bytes // 2
        ):
            self._add(sums, of_kinds, crop_sets, texts=rows, asked=asked[targets])
        scores = sums / len(kinds)
        at = np.arange(len(scores))
        own = scores[at, targets]
        odds = np.where(asked[targets], scores, -np.inf)
        odds -= odds.max(axis=1, keepdims=True)
        share = np.exp(odds[at, targets]) / np.exp(odds).sum(axis=1)
        return ListenerScores(own, share, own / rows.lengths)

    def _add(
        self, sums: Floats, encoded: EncodedImage, crop_sets: Sequence[CropSet], *, texts: TokenRows, asked: Bools
    ) -> None:
        """Add to `sums` (R, N) the log-probabilities of R texts under the crops of some kinds of the masks `asked`."""
        engine = self._engine
        unique_crop_of, encodings = gather_crops([encoded], crop_sets)
        unique_crop_of = unique_crop_of.reshape(len(crop_sets), -1)
        if isinstance(engine, StaticEngine):
            rows = zip(texts.tokens, texts.lengths.tolist(), strict=True)
            log_probs = engine.read(encodings, [text[:length] for text, length in rows])
        else:
            engine.towers.attend_to(encodings)
            budget = prefix_budget(self._config, image_bytes=engine.towers.image_bytes(encodings))
            forcing = TeacherForcing(engine.towers, engine.vocabulary, engine.special, budget_bytes=budget)
            shows = np.zeros((sums.shape[1], len(encodings)), np.bool_)
            for unique_crops_of_kind in unique_crop_of:
                shows[np.arange(len(shows)), unique_crops_of_kind] = True
            log_probs = forcing.read(texts, (asked @ shows) > 0)
        for unique_crops_of_kind in unique_crop_of:
            sums += log_probs[:, unique_crops_of_kind]
