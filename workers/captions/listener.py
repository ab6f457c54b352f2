"""Scores candidates with the captioner as listener: how likely is candidate t of mask i under the crops of all masks?

    caption_score(i, t)  =  log p(t | crop i)
    truth(i, t)          =  caption_score(i, t) / number of tokens of t, EOS included
    listener(i, t)       =  softmax over masks k at i of  log p(t | crop k)

A mask alone in its image has listener 1, because there is no other mask to confuse it with. With several crop kinds,
log p is the mean over the kinds. The softmax is over the whole vocabulary, and EOS may follow any token.

`captioner` calls `Listener` with the crops that it has encoded. `TeacherForcing` computes log p over one prefix tree of
the texts; with `captions.decoder=static`, `static_engine` does in fixed shapes. The two must agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig, SamplingConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord
from pseudoris.schemas.stage_settings import ListeningConfig
from pseudoris.workers.captions.decoding_rules import Bools, ImageCrops, Ints, PrefixLevel, Towers, extend
from pseudoris.workers.captions.distinctive import choose_others
from pseudoris.workers.captions.engine import CachedEngine, EncodedImage, crop_batches, gather_crops
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.captions.static_engine import StaticEngine
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host


def token_rows(texts: Sequence[Sequence[int]], *, eos: int, max_prefix_length: int) -> list[Ints]:
    """Return the tokens of each text, EOS included, (L,) int64; a text is cut at `max_prefix_length`, SOT included."""
    return [np.array([*text[: max_prefix_length - 1], eos], np.int64) for text in texts]


class TeacherForcing:
    """Scores texts with towers that attend to the unique crops."""

    def __init__(self, towers: Towers, vocabulary: Vocabulary, special: SpecialTokens, *, budget_bytes: int) -> None:
        """Keep the towers. The caches of prefixes stay below `budget_bytes`."""
        self._towers, self._vocabulary, self._sot = towers, vocabulary, special.sot
        self._budget_bytes = budget_bytes

    @torch.inference_mode()
    def read(self, texts: Sequence[Ints], asked: Bools) -> Floats:
        """Return Σ log p(token | prefix, crop) of R texts under the P unique crops that each is `asked` of.

        Args:
            texts: R texts, as of `token_rows`.
            asked: (R, P) bool, the crops to score each text under.

        Returns:
            (R, P) float64, 0 where not asked.

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        rows = np.arange(len(asked))
        self._asked, self._sums = asked, np.zeros(asked.shape)
        self._lengths = np.array([len(text) for text in texts], np.int64)
        # A row is the start token and then the text's tokens. Nothing is read behind a text's end.
        self._tokens = np.zeros((len(texts), int(self._lengths.max(initial=0)) + 1), np.int64)
        self._tokens[:, 0] = self._sot
        for row, text in enumerate(texts):
            self._tokens[row, 1 : len(text) + 1] = text
        self._descend(rows, np.zeros_like(rows), None, None, length=0)
        return self._sums

    def _descend(
        self, active: Ints, parents: Ints, level: PrefixLevel | None, cache_index: Any, *, length: int
    ) -> None:
        """Score the texts `active` (r,) from token `length` on; `parents` (r,) are their prefixes in `level`."""
        while len(active):
            newest, following = self._tokens[active, length], self._tokens[active, length + 1]
            next_level = extend(level, parents, newest, self._asked[active])
            num_steps = int(self._lengths[active].max()) - length
            if len(active) > 1 and self._towers.bytes_after(next_level, num_steps) > self._budget_bytes:
                mark = self._towers.mark()
                # Texts are sorted by parent, so that most texts with a common prefix stay in one half.
                for half in np.array_split(np.argsort(parents, kind="stable"), 2):
                    self._descend(active[half], parents[half], level, cache_index, length=length)
                    self._towers.rewind(mark)
                return
            self._towers.make_room(next_level, num_steps, self._budget_bytes)
            hidden, cache_index = self._towers.step(next_level, cache_index)
            row, unique_crop = np.nonzero(self._asked[active])
            pairs = next_level.pair_of[next_level.row_prefix[row], unique_crop]
            # Texts with the same prefix, next token and crop share one log-probability, so it is computed once.
            asked, answer_of = np.unique(pairs * self._vocabulary.size + following[row], return_inverse=True)
            pair, token = (to_device(part, hidden.device) for part in np.divmod(asked, self._vocabulary.size))
            totals = self._vocabulary.log_totals(hidden)
            logits = self._vocabulary.logits_at(hidden[pair], token[:, None])[:, 0]
            answers, is_finite = to_host(logits.double() - totals.double()[pair], all_finite(totals, logits))
            check_finite(is_finite)
            self._sums[active[row], unique_crop] += answers[answer_of]
            level, length = next_level, length + 1
            goes_on = self._lengths[active] > length
            active, parents = active[goes_on], level.row_prefix[goes_on]


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
        columns = {name: values.tolist() for name, values in scores.items()}
        return tuple(
            replace(each, **{name: values[row] for name, values in columns.items()})
            for row, each in enumerate(expressions)
        )

    @torch.inference_mode()
    def scores(
        self, crops: ImageCrops, encoded: EncodedImage, targets: Ints, texts: Sequence[str]
    ) -> dict[str, Floats]:
        """Return the scores of R texts of one image, at least one text: (R,) float64 each, by its name above.

        Args:
            crops: Of the image.
            encoded: The encodings of `crops`.
            targets: (R,) int64, numbers of the texts' masks.
            texts: R candidates.
        """
        engine, kinds = self._engine, [crops.kinds.index(kind) for kind in self._listening.crops]
        embeddings = encoded.embeddings[kinds[0]]
        limit = SamplingConfig(max_others=self._listening.max_others, above_max_others="nearest")
        (others,) = to_host(choose_others(embeddings @ embeddings.t(), limit).indices)
        num_masks = len(crops.mask_indices)
        # Row i of `asked` (N, N) marks the masks whose crops score the candidates of mask i, mask i included.
        asked = np.eye(num_masks, dtype=np.bool_)
        asked[np.arange(num_masks)[:, None], others] = True
        rows = token_rows(
            [self._encode(text) for text in texts],
            eos=engine.special.eos,
            max_prefix_length=engine.towers.max_prefix_length,
        )
        of_kinds = replace(encoded, unique_crop_of=encoded.unique_crop_of[kinds])
        sums, budget = np.zeros((len(texts), num_masks)), self._config.cache_bytes // 2
        for crop_sets in crop_batches([of_kinds], engine.towers.image_bytes, budget_bytes=budget):
            crop_of, encodings = gather_crops([of_kinds], crop_sets)
            crops_of_kinds = crop_of.reshape(len(crop_sets), -1)
            shows = np.zeros((num_masks, len(encodings)), np.bool_)
            shows[np.arange(num_masks), crops_of_kinds] = True
            of_texts = (asked[targets] @ shows) > 0
            if isinstance(engine, StaticEngine):
                log_probs = engine.read(encodings, rows, of_texts)
            else:
                engine.towers.attend_to(encodings)
                budget_bytes = prefix_budget(self._config, image_bytes=engine.towers.image_bytes(encodings))
                forcing = TeacherForcing(engine.towers, engine.vocabulary, engine.special, budget_bytes=budget_bytes)
                log_probs = forcing.read(rows, of_texts)
            for of_kind in crops_of_kinds:
                sums += log_probs[:, of_kind]
        scores, at = sums / len(kinds), np.arange(len(texts))
        own = scores[at, targets]
        odds = np.where(asked[targets], scores, -np.inf)
        odds -= odds.max(axis=1, keepdims=True)
        share = np.exp(odds[at, targets]) / np.exp(odds).sum(axis=1)
        return {"caption_score": own, "listener": share, "truth": own / np.array(list(map(len, rows)))}
