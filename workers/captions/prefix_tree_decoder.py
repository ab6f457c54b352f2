"""Decodes all sampling rows and beams of an engine's crops over one prefix tree, level by level.

Called by `engine`; `listener` and `static_engine` take `prefix_budget`. Rows with an equal prefix share its work. If
caches would exceed their budget, rows are decoded in halves; that must not change what a row draws, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.beam_search import BeamSearches, beam_of
from pseudoris.workers.captions.decoding_rules import (
    Beam,
    Ints,
    PrefixLevel,
    SampledCaption,
    Towers,
    extend,
    until_eos,
)
from pseudoris.workers.captions.distinctive import Others, Sampler, SamplerRows
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, TopLogits, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host

# At most this many lines (a prefix and its target) gather hidden states of other masks at once, to bound memory.
_LINES_A_MEAN = 256


def prefix_budget(config: CaptionsConfig, *, image_bytes: int) -> int:
    """Return the bytes that the caches of prefixes may take: `cache_bytes` less `image_bytes`.

    An eighth of `cache_bytes` is kept for temporaries. The caches get at least an eighth.
    """
    return max(config.cache_bytes * 7 // 8 - image_bytes, config.cache_bytes // 8)


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """The sampling rows and beam searches that are unfinished at one prefix length."""

    rows: Ints  # (r,) numbers of the sampling rows
    parents: Ints  # (r,) their prefixes in the previous level
    tokens: Ints  # (r,) the tokens that they append
    searched: Ints  # (s,) numbers of the crops of the searches
    beam_parents: Ints  # (s, B) the prefix of each beam's parent in the previous level

    def halves(self) -> tuple[ActiveRows, ActiveRows]:
        """Return two halves; rows of one parent stay together where possible, so that the halves share few nodes."""
        order = np.argsort(self.parents, kind="stable")
        # If both numbers are odd, one half gets one more row and the other one more search, so that no half is empty.
        middle, beams = (len(order) + 1) // 2, (len(self.searched) + 1 - len(order) % 2) // 2
        return self._part(order[:middle], slice(beams)), self._part(order[middle:], slice(beams, None))

    def _part(self, index: Ints, beams: slice) -> ActiveRows:
        return ActiveRows(
            self.rows[index], self.parents[index], self.tokens[index], self.searched[beams], self.beam_parents[beams]
        )


class PrefixTreeDecoding:
    """Decodes all rows and beams over the crops that the towers attend to."""

    def __init__(
        self,
        towers: Towers,
        vocabulary: Vocabulary,
        *,
        others: Others,
        rows: SamplerRows,
        config: CaptionsConfig,
        special: SpecialTokens,
        budget_bytes: int,
        unique_crop_of: Ints,
    ) -> None:
        """Prepare the decoding of `rows` and of the beams of C crops.

        `others` are numbers among the crops, and `unique_crop_of` (C,) numbers those that the towers attend to. The
        caches of prefixes stay below `budget_bytes`, as far as one row's caches do.
        """
        self._towers, self._vocabulary, self._config, self._special = towers, vocabulary, config, special
        self._budget_bytes, self._num_beams = budget_bytes, config.beam.num_beams // config.beam.num_groups
        self._target = rows.target
        self._others, self._members = others, to_host(others.indices)[0]
        num_crops = len(self._members)
        self._unique_crop_of, num_unique_crops = unique_crop_of, int(unique_crop_of.max()) + 1
        self._needs_own = np.eye(num_unique_crops, dtype=np.bool_)[unique_crop_of]
        self._needs_all = self._needs_own.copy()
        self._needs_all[np.arange(num_crops)[:, None], unique_crop_of[self._members]] = True
        self._sampler = Sampler(rows, vocabulary, temperature=config.sampling.temperature)
        self._tokens = np.full((len(rows.target), config.max_length), special.eos, dtype=np.int64)
        self._log_probs = np.zeros(len(rows.target))
        self._eos = [special.eos, *special.further_eos]
        self.peak_cache_bytes = 0
        of_searches = num_crops, self._num_beams
        self._searches = BeamSearches(of_searches, config, special.eos, device=torch.device("cpu"))
        self._best = self._searches.best().numpy()
        self._newest = np.full(of_searches, special.sot)

    def sampled(self, row: int) -> SampledCaption:
        """Return what a finished row has drawn."""
        return until_eos(self._tokens[row], self._special.eos), float(self._log_probs[row])

    def searched(self, crop: int) -> Beam:
        """Return the best caption of a crop whose search is over."""
        return beam_of(self._best[crop], self._special.eos)

    def run(self, searched: Sequence[int]) -> None:
        """Decode all rows, and the beams of the crops `searched`; then `sampled` and `searched` give the results."""
        zeros, crops = np.zeros_like(self._target), np.array(searched, dtype=np.int64)
        beam_parents = np.zeros((len(crops), self._num_beams), dtype=np.int64)
        active = ActiveRows(np.arange(len(zeros)), zeros, zeros + self._special.sot, crops, beam_parents)
        self._descend(active, None, None, length=1)
        self._best = self._searches.best().numpy()

    def _descend(self, active: ActiveRows, level: PrefixLevel | None, cache_index: Any, *, length: int) -> None:
        while (num_searches := len(active.rows) + len(active.searched)) and length < self._config.max_length:
            # Of beams, the prefixes that they extend, their newest tokens and their crops come behind those of rows.
            crops = active.searched.repeat(self._num_beams)
            needs = np.concatenate((self._needs_all[self._target[active.rows]], self._needs_own[crops]))
            parents = np.concatenate((active.parents, active.beam_parents.ravel()))
            tokens = np.concatenate((active.tokens, self._newest[active.searched].ravel()))
            next_level = extend(level, parents, tokens, needs)
            needed = self._towers.bytes_after(next_level, self._config.max_length - length)
            if needed > self._budget_bytes and num_searches > 1:
                mark = self._towers.mark()
                for part in active.halves():
                    self._descend(part, level, cache_index, length=length)
                    self._towers.rewind(mark)
                return
            held_bytes = self._towers.make_room(next_level, self._config.max_length - length, self._budget_bytes)
            # A pair that several rows or beams share counts once for each of them.
            self._towers.num_asked += int(needs.sum())
            self.peak_cache_bytes = max(self.peak_cache_bytes, held_bytes)
            hidden, cache_index = self._towers.step(next_level, cache_index)
            prefixes, is_open = next_level.row_prefix[: len(active.rows)], np.zeros(len(active.rows), dtype=np.bool_)
            beams = self._advance_beams(active, next_level, hidden, length)
            tokens = active.tokens
            if len(active.rows):
                tokens = self._sample(active, next_level, hidden, length)
                # A row with room for one more token ends too: that token is EOS, which needs no hidden state.
                is_open = (tokens != self._special.eos) & (length + 2 < self._config.max_length)
            active = ActiveRows(active.rows[is_open], prefixes[is_open], tokens[is_open], *beams)
            level, length = next_level, length + 1

    def _sample(self, active: ActiveRows, level: PrefixLevel, hidden: torch.Tensor, length: int) -> Ints:
        # Rows with the same prefix and target share a line, so that one projection serves all their rules.
        keys = level.row_prefix[: len(active.rows)] * len(self._unique_crop_of) + self._target[active.rows]
        lines, own_of = np.unique(keys, return_inverse=True)
        prefix, target = np.divmod(lines, len(self._unique_crop_of))
        pairs = level.pair_of[prefix, self._unique_crop_of[target]]
        # The weighted mean of the others' states, Σ_j (s_ij / M) h_j for each line: the projection is linear, so one
        # serves the sum of all others.
        pairs_of_others = level.pair_of[prefix[:, None], self._unique_crop_of[self._members[target]]]
        weights = self._others.weights[to_device(target, hidden.device)]
        means = [
            torch.bmm(weight[:, None], hidden[part].to(weight.dtype))[:, 0]
            for weight, part in zip(
                torch.split(weights, _LINES_A_MEAN),
                torch.split(to_device(pairs_of_others, hidden.device), _LINES_A_MEAN),
                strict=True,
            )
        ]
        tokens, log_probs = self._sampler.next_tokens(
            active.rows,
            own_of,
            own=hidden[to_device(pairs, hidden.device)],
            others=torch.cat(means),
            prefix_length=length,
            is_eos_allowed=length >= self._config.min_length,
        )
        ends = [*self._eos, self._special.pad] if self._config.sampling.pad_ends_caption else self._eos
        tokens = np.where(np.isin(tokens, ends), self._special.eos, tokens)
        self._tokens[active.rows, length - 1] = tokens
        self._log_probs[active.rows] += log_probs
        return tokens

    def _advance_beams(
        self, active: ActiveRows, level: PrefixLevel, hidden: torch.Tensor, length: int
    ) -> tuple[Ints, Ints]:
        """Extend the beams of all searches; return the crops of the unfinished ones, and their beams' parents."""
        searched, num_beams = active.searched, self._num_beams
        if not len(searched):
            return searched, active.beam_parents
        prefixes = level.row_prefix[len(active.rows) :].reshape(-1, num_beams)
        pairs = level.pair_of[prefixes, self._unique_crop_of[searched][:, None]].reshape(-1)
        hidden, is_certain = hidden[to_device(pairs, hidden.device)], False
        wanted = min((1 + len(self._eos)) * num_beams, self._vocabulary.size)
        is_eos_allowed = length >= self._config.min_length
        top = self._vocabulary.top_logits(hidden, is_eos_allowed=is_eos_allowed)
        # `table` has scores, log-probabilities and ids of the best tokens of each beam, `wanted` tokens per beam.
        if top.logits.shape[1] >= wanted:
            *table, is_certain = self._read(top, wanted)
        if not is_certain:
            top = self._vocabulary.sorted_logits(hidden, is_eos_allowed=is_eos_allowed)
            *table, _ = self._read(top, wanted)
        some, num_searches = torch.from_numpy(searched), len(self._newest)
        of_some = (torch.from_numpy(column).view(-1, num_beams, wanted) for column in table)
        scores, log_probs, tokens = (
            each.new_zeros(num_searches, num_beams, wanted).index_copy_(0, some, each) for each in of_some
        )
        goes_on = torch.zeros(num_searches, dtype=torch.bool).index_fill_(0, some, True)
        position = torch.full((num_searches,), length - 1)
        origins, newest = self._searches.advance(scores, log_probs, tokens, position, goes_on)
        self._newest[searched] = newest[some]
        is_open = ~self._searches.is_done[some].numpy()
        parents = np.take_along_axis(prefixes, origins[some].numpy(), axis=1)
        return searched[is_open], parents[is_open]

    def _read(self, top: TopLogits, wanted: int) -> tuple[Any, ...]:
        """Scores, log-probabilities and ids of the first `wanted` tokens, and whether no other token is as likely."""
        logits = top.logits[:, :wanted].double()
        log_probs = logits - top.log_total.double()[:, None]
        scores = log_probs if self._config.beam.beam_score == "logprob" else logits
        is_certain = top.contains_kept_set(torch.full_like(top.ids[:, 0], wanted)).all()
        *table, ids, is_sure, is_finite = to_host(
            scores, log_probs, top.ids[:, :wanted], is_certain, all_finite(top.log_total)
        )
        check_finite(is_finite)
        return *table, np.where(np.isin(ids, self._eos), self._special.eos, ids), is_sure
