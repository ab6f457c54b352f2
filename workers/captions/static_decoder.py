"""Decodes groups of crops in fixed shapes, all on the device. Called by `static_engine`.

A caption must be the one that the prefix tree would give, up to rounding. What the top logits cannot decide (a wide
kept set, a close beam) is None, and the prefix tree decodes it. The host must not wait for a step: it copies all that
varies before the first, and asks every eighth whether captions are unfinished. No tensor of `_State` may be replaced,
because recorded steps use its address.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.decoding_rules import (
    INACTIVE,
    Beam,
    BeamSearch,
    DecodingRule,
    SampledCaption,
    until_eos,
)
from pseudoris.workers.captions.distinctive import count_kept, distinctive_weights, draw
from pseudoris.workers.captions.static_towers import GroupShape, RecordedStep, StaticTowers, split_axis
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, TopLogits, Vocabulary, check_finite, score_dtype
from pseudoris.workers.device import to_device, to_host

# After this many steps the host checks whether all captions have ended. Each check makes it wait for the GPU.
_STEPS_A_READ = 8


@dataclass(frozen=True, slots=True)
class CropGroup:
    """Crops that are decoded together, and what their captions are drawn by."""

    crops: Sequence[int]  # up to C numbers of encodings; the first of them are the targets
    weights: torch.Tensor  # (targets, crops) float, of the others of each target, on the device
    uniform: NDArray[np.float64]  # (targets · rules, max_length) float64 in [0, 1), the draws by prefix length


# The captions of a group: tokens without SOT and EOS, and log-probability, by target, then rule; and the best beam of
# each target. None is what the top logits did not decide.
Drawn = tuple[Sequence[SampledCaption | None], Sequence[Beam | None]]


class _State:
    """What a batch of G groups reads and writes while it is decoded; recorded steps use its addresses."""

    def __init__(self, shape: GroupShape, num_groups: int, max_length: int, like: torch.Tensor) -> None:
        new, scores = partial(torch.zeros, device=like.device), score_dtype(like.dtype)
        prefixes, rows, crops = (num_groups, shape.prefixes), (num_groups, shape.rows), (num_groups, shape.crops)
        self.position = new(1, dtype=torch.int64)  # (1,) position of the newest tokens
        # `newest` (G, N) has each prefix's newest token, `before` the token before that.
        self.newest, self.before = new(prefixes, dtype=torch.int64), new(prefixes, dtype=torch.int64)
        # `weights` (G, T, C) has each target's weights of other crops.
        self.weights = new((num_groups, shape.targets, shape.crops), dtype=scores)
        # `uniform` (G, R, max_length) has each row's random draws, `tokens` its tokens.
        self.uniform = new((*rows, max_length), dtype=torch.float64)
        self.tokens = new((*rows, max_length), dtype=torch.int64)
        self.log_probs = new(rows, dtype=torch.float64)  # (G, R), of each row's tokens
        # `is_open` (G, R): the row is not finished. `is_settled`: the top logits were enough for all its draws.
        self.is_open, self.is_settled = new(rows, dtype=torch.bool), new(rows, dtype=torch.bool)
        # `is_decided` (G, C): the top logits were enough for every step of the crop's beams.
        self.is_decided = new(crops, dtype=torch.bool)
        # `totals` (G, N) adds up each prefix's scores. If one score is not finite, the total is not finite either.
        self.totals = new(prefixes, dtype=scores)

    def restart(self, special: SpecialTokens) -> None:
        """Forget the batch before; `weights`, `uniform` and `is_open` are the next one's."""
        for each in (self.position, self.weights, self.log_probs, self.totals):
            each.zero_()
        for each in (self.is_settled, self.is_decided):
            each.fill_(True)
        self.newest.fill_(special.sot)
        self.before.fill_(-1)
        self.tokens.fill_(special.eos)


class StaticDecoder:
    """Decodes batches of one shape, of up to G groups each."""

    def __init__(
        self,
        towers: StaticTowers,
        vocabulary: Vocabulary,
        special: SpecialTokens,
        config: CaptionsConfig,
        *,
        samplers: Sequence[DecodingRule],
    ) -> None:
        """Allocate the state of a batch of `towers`."""
        self._towers, self._vocabulary, self._special, self._config = towers, vocabulary, special, config
        self._shape, self.num_groups = towers.shape, towers.num_groups
        # Pairs (prefix, crop) that were computed so far, and those that captions needed. For benchmarks.
        self.num_pairs = self.num_needed = 0
        shape, num_groups, like = towers.shape, towers.num_groups, towers.blocks.like
        self._device = device = like.device
        self._state = _State(shape, num_groups, config.max_length, like)
        self._beams = StaticBeams((num_groups, shape.crops, shape.beams), config, special.eos, device=device)
        targets = num_groups * shape.targets
        self._top_k = to_device(np.array([rule.top_k or 0 for rule in samplers] * targets, dtype=np.int64), device)
        self._top_p = to_device(np.array([rule.top_p or 1.0 for rule in samplers] * targets), device)
        pad = [special.pad] if config.sampling.pad_ends_caption else []
        self._ends = to_device(np.array([special.eos, *special.further_eos, *pad]), device)
        self._eos, self._zero = torch.full((), special.eos, device=device), torch.zeros((), device=device)
        self._columns = torch.arange(vocabulary.top_width, device=device)
        # A search looks at this many tokens of each beam. If they cannot decide, a tree decoder is used.
        self._wanted = min((2 + len(special.further_eos)) * shape.beams, vocabulary.top_width)
        self._wanted_rows = torch.full((num_groups * shape.crops * shape.beams,), self._wanted, device=device)
        self._steps = [
            RecordedStep(partial(self._step, is_eos_allowed=is_allowed), towers.recordings)
            for is_allowed in (False, True)
        ]

    @torch.inference_mode()
    def decode(self, groups: Sequence[CropGroup], image_tokens: torch.Tensor) -> list[Drawn]:
        """Return the captions of up to G groups, from all encodings (U, T, D).

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        state, shape = self._state, self._shape
        state.restart(self._special)
        self._beams.restart()
        crops = np.zeros((self.num_groups, shape.crops), dtype=np.int64)
        uniform, is_open = np.zeros(state.uniform.shape), np.zeros(state.is_open.shape, dtype=np.bool_)
        is_searched = np.zeros(crops.shape, dtype=np.bool_)
        for number, group in enumerate(groups):
            crops[number, : len(group.crops)] = group.crops
            uniform[number, : len(group.uniform)] = group.uniform
            is_open[number, : len(group.uniform)] = True
            is_searched[number, : len(group.weights)] = shape.beams > 0
            state.weights[number, : len(group.weights), : len(group.crops)] = group.weights
        state.uniform.copy_(to_device(uniform, self._device))
        state.is_open.copy_(to_device(is_open, self._device))
        self._beams.is_done.copy_(to_device(~is_searched, self._device))
        self._towers.attend_to(image_tokens[to_device(crops.reshape(-1), self._device)])
        last = self._config.max_length - (1 if shape.beams else 2)
        for length in range(1, max(last, 1) + 1):
            self._steps[length >= self._config.min_length]()
            if length % _STEPS_A_READ == 0 and not to_host(state.is_open.any() | ~self._beams.is_done.all())[0]:
                break
        self.num_pairs += length * self.num_groups * shape.pairs
        return self._read(groups)

    def _step(self, *, is_eos_allowed: bool) -> None:
        state, shape = self._state, self._shape
        hidden = self._towers.step(state.newest, state.before, state.position)
        state.before.copy_(state.newest)
        rows, num_rows = shape.rows, self.num_groups * shape.rows
        # Sampled prefixes have states `of_rows` (G, C, T, rules, D) under all crops, `own` (G · R, D) under their own.
        of_rows = split_axis(hidden[:, :, :rows], 2, shape.targets, shape.rules)
        own = of_rows[:, : shape.targets].diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2).flatten(0, 2)
        states = torch.cat((own, hidden[:, :, rows:].flatten(0, 2)))
        top = self._vocabulary.top_logits(states, is_eos_allowed=is_eos_allowed, rows_together=len(states))
        sampled, searched = top.part(slice(num_rows)), top.part(slice(num_rows, None))
        num_kept = count_kept(sampled.logits, sampled.log_total, self._top_k, self._top_p)
        is_certain = top.contains_kept_set(torch.cat((num_kept, self._wanted_rows)))
        if rows:
            # `others` (G · R, D) are weighted means of the states under the crops of the other masks.
            others = torch.einsum("gtc,gctrd->gtrd", state.weights, of_rows.to(state.weights.dtype)).flatten(0, 2)
            is_kept = self._columns < num_kept[:, None]
            state.newest[:, :rows] = self._draw(sampled, others, is_kept=is_kept, is_certain=is_certain[:num_rows])
        if shape.beams:
            parents, tokens = self._search(searched, is_certain=is_certain[num_rows:])
            state.newest[:, rows:] = tokens.flatten(1)
            self._towers.reorder(parents, state.position)
            before = split_axis(state.before[:, rows:], 1, shape.crops, shape.beams)
            before.copy_(before.gather(2, parents))
        state.position.add_(1)

    def _draw(
        self, top: TopLogits, others: torch.Tensor, *, is_kept: torch.Tensor, is_certain: torch.Tensor
    ) -> torch.Tensor:
        """Draw the next token (G, R) of each sampling row, as `Sampler.next_tokens`."""
        vocabulary, config, state = self._vocabulary, self._config, self._state
        shape, is_open = state.is_open.shape, state.is_open
        # Columns are sorted by token id, as `draw` requires. Tokens that are not kept go to the end with weight 0.
        order = top.ids.masked_fill(~is_kept, vocabulary.size).argsort(dim=1)
        ids, logits, is_kept = top.ids.gather(1, order), top.logits.gather(1, order), is_kept.gather(1, order)
        weights = distinctive_weights(
            logits,
            vocabulary.logits_at(others, ids),
            is_kept=is_kept,
            is_eos=vocabulary.is_eos(ids),
            temperature=config.sampling.temperature,
        )
        uniform = state.uniform.index_select(2, state.position + 1).flatten()
        column = draw(weights, uniform)[:, None]
        log_probs = (weights.gather(1, column)[:, 0] / weights.sum(dim=1)).log().view(shape)
        tokens = ids.gather(1, column).view(shape)
        state.is_settled.logical_and_(is_certain.view(shape) | ~is_open)
        totals = (top.log_total + others.sum(dim=1)).view(shape)
        state.totals[:, : self._shape.rows].add_(totals.where(is_open, self._zero))
        tokens = tokens.where(is_open & ~torch.isin(tokens, self._ends), self._eos)
        state.log_probs.add_(log_probs.where(is_open, self._zero))
        state.tokens.index_copy_(2, state.position, tokens[..., None])
        # A row with room for one more token ends too: that token is EOS, which needs no hidden state.
        is_open.logical_and_((tokens != self._eos) & (state.position + 3 < config.max_length))
        return tokens

    def _search(self, top: TopLogits, *, is_certain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Advance all beams; return the parent and the newest token of each, (G, C, B)."""
        beams, state, shape = self._beams, self._state, (self.num_groups, self._shape.crops, self._shape.beams, -1)
        logits = top.logits[:, : self._wanted].double()
        log_probs = logits - top.log_total.double()[:, None]
        state.is_decided.logical_and_(is_certain.view(shape[:3]).all(dim=-1) | beams.is_done)
        totals = split_axis(state.totals[:, self._shape.rows :], 1, *shape[1:3])
        totals.add_(top.log_total.view(shape[:3]).where(~beams.is_done[..., None], self._zero))
        ids = top.ids[:, : self._wanted]
        ids = ids.where(~self._vocabulary.is_eos(ids), self._eos).view(shape)
        scores = log_probs if self._config.beam.beam_score == "logprob" else logits
        return beams.advance(scores.view(shape), log_probs.view(shape), ids, state.position)

    def _read(self, groups: Sequence[CropGroup]) -> list[Drawn]:
        beams, state = self._beams, self._state
        tokens, log_probs, is_settled, is_decided, totals, *searched = to_host(
            state.tokens,
            state.log_probs,
            state.is_settled,
            state.is_decided,
            state.totals,
            beams.beams,
            beams.finished,
            beams.is_done,
        )
        check_finite(np.isfinite(totals).all())
        drawn: list[Drawn] = []
        for number, group in enumerate(groups):
            rows = [
                (until_eos(tokens[number, row], self._special.eos), float(log_probs[number, row]))
                if is_settled[number, row]
                else None
                for row in range(len(group.uniform))
            ]
            found = [
                beams.result(*(each[number, crop] for each in searched)) if is_decided[number, crop] else None
                for crop in range(len(group.weights) if self._shape.beams else 0)
            ]
            drawn.append((rows, found))
            # A caption takes a step for each token, and one for its end where there is room for one.
            most = self._config.max_length - 2
            self.num_needed += len(group.crops) * sum(min(1 + len(row[0]), most) for row in rows if row)
            self.num_needed += self._shape.beams * sum(1 + len(beam.tokens) for beam in found if beam)
        return drawn


_SCORE, _LOG_PROB, _TOKENS = 0, 1, 2


class StaticBeams:
    """Beam search over (G, C) crops, each with B beams: the steps of `BeamSearch` for all at once, without a host read.

    A beam or finished caption is a row: its score, its log-probability, and its tokens, EOS behind the last.

    Attributes:
        beams: (G, C, B, 2 + positions) float64.
        finished: The same of finished captions, in the order of finding; -inf is the score of a place that is free.
        is_done: (G, C) bool.
    """

    def __init__(self, shape: Sequence[int], config: CaptionsConfig, eos: int, *, device: torch.device) -> None:
        """Allocate the searches of a shape (G, C, B)."""
        self._config, self._eos, self._num_beams = config.beam, eos, shape[-1]
        self.beams = torch.full((*shape, _TOKENS + config.max_length), float(eos), dtype=torch.float64, device=device)
        self.finished = self.beams.clone()
        self.is_done = torch.zeros(*shape[:-1], dtype=torch.bool, device=device)
        # Entry p is for a beam whose newest token is at position p (SOT is at 0). Extended, it has p + 2 tokens.
        counted = range(2, config.max_length + 2), range(2 - (not config.beam.counts_eos), config.max_length + 2)
        self._divisors, self._finished_divisors = (
            to_device(np.array([math.pow(length, config.beam.length_penalty) for length in lengths]), device)
            for lengths in counted
        )
        self._numbers = torch.arange(self._num_beams, device=device)
        self._nowhere = torch.full((), self._num_beams, device=device)

    def restart(self) -> None:
        """Begin all searches anew."""
        self.beams.fill_(self._eos)
        self.finished.fill_(self._eos)
        self.finished[..., _SCORE] = -torch.inf
        self.beams[..., :_TOKENS] = 0.0
        self.beams[..., 1:, _SCORE] = INACTIVE
        self.is_done.zero_()

    def advance(
        self, scores: torch.Tensor, log_probs: torch.Tensor, tokens: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to each beam; return its parent and its newest token, (G, C, B).

        Args:
            scores: (G, C, B, W) float64, of the best W tokens of each beam, as many as a search considers.
            log_probs: (G, C, B, W) float64.
            tokens: (G, C, B, W) int64, every EOS as one.
            position: (1,) int64, of the parents' newest tokens.
        """
        width = tokens.shape[-1]
        # Tokens are sorted first, so that the stable sort below orders equal scores by beam, then by token.
        tokens, order = tokens.sort(dim=-1, stable=True)
        columns = torch.stack((scores.gather(-1, order), log_probs.gather(-1, order)), dim=-1)
        columns = (columns + self.beams[..., None, :_TOKENS]).flatten(2, 3)
        sums, order = columns[..., _SCORE].sort(dim=-1, descending=True, stable=True)
        tokens, parents = tokens.flatten(2).gather(-1, order), order // width
        columns = torch.stack((sums, columns[..., _LOG_PROB].gather(-1, order)), dim=-1)
        is_eos = tokens == self._eos
        best = self._extended(columns[..., : self._num_beams, :], parents[..., : self._num_beams])
        best[..., _SCORE] /= self._finished_divisors.index_select(0, position)
        for number in range(self._num_beams):
            # An extension with EOS that beats the worst finished caption replaces it, or the first of equally bad ones.
            row, ends = best[..., number, :], is_eos[..., number] & ~self.is_done
            worst, place = (each[..., 0] for each in self.finished[..., _SCORE].sort(dim=-1, stable=True))
            place = place.where(ends & (row[..., _SCORE] > worst), self._nowhere)
            kept = self._numbers + (self._numbers >= place[..., None])
            both = torch.cat((self.finished, row[..., None, :]), dim=2)
            self.finished.copy_(both.gather(2, kept[..., None].expand_as(self.finished)))
        bound = sums[..., :1] / self._divisors.index_select(0, position)
        scores = self.finished[..., _SCORE]
        self.is_done.logical_or_(((scores > -torch.inf) & (scores >= bound)).all(dim=-1))
        chosen = is_eos.to(torch.uint8).sort(dim=-1, stable=True).indices[..., : self._num_beams]
        parents = parents.gather(-1, chosen)
        columns = columns.gather(2, chosen[..., None].expand(*chosen.shape, _TOKENS))
        beams = self._extended(columns, parents)
        tokens = tokens.gather(-1, chosen)
        beams.index_copy_(3, position + _TOKENS, tokens[..., None].double())
        self.beams.copy_(beams)
        return parents, tokens

    def result(self, beams: NDArray[np.float64], finished: NDArray[np.float64], is_done: np.bool_) -> Beam:
        """Return the best caption of one crop, from its rows in host memory."""
        search = BeamSearch(self._num_beams, self._eos, self._config.length_penalty, self._config.counts_eos)
        search.beams = [self._beam(row) for row in beams]
        search.finished = [self._beam(row) for row in finished if row[_SCORE] != -math.inf]
        search.is_done = bool(is_done)
        return search.result()

    def _beam(self, row: NDArray[np.float64]) -> Beam:
        tokens = until_eos(row[_TOKENS:].astype(np.int64), self._eos)
        return Beam(float(row[_SCORE]), float(row[_LOG_PROB]), tokens)

    def _extended(self, columns: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Return rows of score, log-probability and the parents' tokens."""
        parents = parents[..., None].expand(-1, -1, -1, self.beams.shape[-1] - _TOKENS)
        return torch.cat((columns, self.beams[..., _TOKENS:].gather(2, parents)), dim=-1)
