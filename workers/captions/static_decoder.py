"""Decodes crops over slots of fixed number, all on the device. Called by `static_engine`.

A caption must be the one that the prefix tree would give, up to rounding. Rows that the top logits cannot decide (a
wide kept set, a close beam) are decided over the whole vocabulary, a few before each refill. Until then they wait, and
compute the same step again. No tensor of a decoder may be replaced, because recorded steps use its address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.workers.captions.beam_search import BeamSearches, beam_of
from pseudoris.workers.captions.decoding_rules import Beam, Ints, SampledCaption, until_eos
from pseudoris.workers.captions.distinctive import SamplerRows, count_kept, draw_from_all, draw_from_top
from pseudoris.workers.captions.recorded_step import RecordedStep
from pseudoris.workers.captions.static_slots import STEPS_A_REFILL, RowSlots, Targets, run_slots
from pseudoris.workers.captions.static_towers import StaticTowers
from pseudoris.workers.captions.vocabulary_logits import TopLogits, Vocabulary, check_finite, score_dtype
from pseudoris.workers.device import to_device, to_host

# Before a refill one of so many slots is decided over the whole vocabulary: before each one if more than a share of the
# last decisions needed it, else before every fourth, because this costs as much for one row as for all.
_SLOTS_A_WIDE_ONE = 4
_COMMON, _REFILLS_A_SELDOM_TURN = 0.01, 4


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was decoded, and what it took."""

    captions: list[SampledCaption]  # by target, then rule
    beams: list[Beam]  # the best one of each search
    num_pairs: int  # pairs (prefix, crop) that were computed
    num_needed: int  # those of them that captions needed
    num_wide: int  # decisions of rows and searches over the whole vocabulary
    num_decisions: int  # all decisions


class StaticDecoder:
    """Decodes as many crops at a time as memory holds, with their rows by all sampling rules and a search of each."""

    def __init__(self, towers: StaticTowers, vocabulary: Vocabulary, config: CaptionsConfig) -> None:
        num_targets = towers.memory.image.shape[2]
        self._num_rules = sum(rule.name != "beam" for rule in config.decoding_rules())
        self._towers, self._vocabulary, self._config = towers, vocabulary, config
        self._shape, self._special = shape, special = towers.shape, vocabulary.special
        like, device = towers.blocks.like, towers.blocks.like.device
        new, ints = partial(torch.zeros, device=device), partial(torch.zeros, dtype=torch.int64, device=device)
        self._rows = RowSlots(shape, num_targets, max(self._num_rules, 1), like)
        self._searches = RowSlots(shape.lone, num_targets, 1, like)
        # Of each prefix (N + S · B) the sum of its scores, which is not finite if one of them is not.
        self._totals = new(shape.prefixes, dtype=score_dtype(like.dtype))
        self._of_prefixes = towers.position, towers.newest, towers.before, self._totals
        # Of the last step: hidden states, those of other masks (N, D), and which prefixes it moved on.
        self._states = like.new_zeros(shape.prefixes, towers.blocks.width)
        self._others = new((shape.rows, towers.blocks.width), dtype=self._totals.dtype)
        self._has_moved = new(shape.prefixes, dtype=torch.bool)
        # Of each row: its tokens, and the log-probability of them.
        self._tokens, self._log_probs = ints((shape.rows, config.max_length)), new(shape.rows, dtype=torch.float64)
        # By what it is drawn: k and p, as of `count_kept`, and the random numbers; and the weights of its members.
        self._drawn_by = ints(shape.rows), torch.zeros_like(self._log_probs), torch.zeros_like(self._tokens).double()
        self._weights = new((shape.rows, shape.members), dtype=self._totals.dtype)
        # For how many refills each row, and each search, has waited to be decided over the whole vocabulary.
        self._waits_of_rows, self._waits_of_searches = ints(shape.rows), ints(shape.searches)
        # How many were decided so.
        self._wide = ints(1)
        self._refills_a_turn, self._num_refills = 1, 0
        self._beams = BeamSearches((shape.searches, shape.beams), config, special.eos, device=device)
        # By what queued rows are drawn. The last one is of empty slots, here and below.
        self._queued = [each.new_zeros(self._rows.capacity + 1, *each.shape[1:]) for each in self._drawn_by]
        # Slots, their state, and what became of all that is queued.
        self._best, totals = self._beams.best(), self._totals[shape.rows :].view(shape.searches, shape.beams)
        states = [(self._rows, each) for each in (self._tokens, self._log_probs, self._totals[: shape.rows])]
        states += [(self._searches, each) for each in (self._best, totals)]
        self._results = [(slots, each, each.new_zeros(slots.capacity + 1, *each.shape[1:])) for slots, each in states]
        pad = [special.pad] if config.sampling.pad_ends_caption else []
        self._ends = to_device(np.array([special.eos, *special.further_eos, *pad]), device)
        self._eos, self._zero = torch.full((), special.eos, device=device), torch.zeros((), device=device)
        # A search looks at this many tokens of each beam.
        self._wanted = min((2 + len(special.further_eos)) * shape.beams, vocabulary.num_live)
        self._wanted_rows = torch.full((shape.searches * shape.beams,), self._wanted, device=device)
        self._beam_numbers = torch.arange(shape.searches * shape.beams, device=device)
        self._step = RecordedStep(self._one_step, towers.memory.recordings)
        self._wide_step = RecordedStep(self._one_wide_step, towers.memory.recordings)
        self._refill = RecordedStep(self._one_refill, towers.memory.recordings)

    @torch.inference_mode()
    def decode(self, targets: Targets, drawn: SamplerRows, searched: Ints, image_tokens: torch.Tensor) -> Decoded:
        """Return the captions of all targets, and the best beams of the crops `searched`.

        Args:
            targets: At most as many as there is room for.
            drawn: Their rows, by target, then rule.
            searched: Numbers of encodings.
            image_tokens: All encodings (U, T, D).

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        rows, searches, num_rows = self._rows, self._searches, len(drawn.uniform)
        self._towers.attend_to(image_tokens)
        rows.restart(targets, num_rows)
        searches.restart(Targets.alone(searched, image_tokens), len(searched))
        for queued, given in zip(self._queued, (drawn.top_k, drawn.top_p, drawn.uniform), strict=True):
            queued[:num_rows].copy_(to_device(given, queued.device))
        self._wide.zero_()
        # No row leaves before a refill.
        least = STEPS_A_REFILL * int(targets.sizes.sum()) * self._num_rules // max(self._shape.pairs, 1)
        allowed = {"longest": self._config.max_length, "refills_a_turn": self._refills_a_turn}
        num_steps = run_slots(self._step, self._end_chunk, rows, searches, least=least, **allowed)
        found = self._read(targets, num_rows, len(searched), num_steps)
        is_common = found.num_wide > _COMMON * found.num_decisions
        self._refills_a_turn = 1 if is_common else _REFILLS_A_SELDOM_TURN
        return found

    def _end_chunk(self) -> None:
        self._num_refills += 1
        if self._num_refills % self._refills_a_turn == 0:
            self._wide_step()
        self._refill()

    def _one_refill(self) -> None:
        rows, searches, shape, special = self._rows, self._searches, self._shape, self._special
        # Slots that go on are copied too: what became of them is copied again when they have ended.
        self._best.copy_(self._beams.best())
        for slots, state, results in self._results:
            results.index_copy_(0, slots.number, state)
        of_rows, of_searches = rows.refill(), searches.refill()
        begins = torch.cat((of_rows, of_searches.repeat_interleave(shape.beams, output_size=len(self._beam_numbers))))
        crops = searches.pair_crops.repeat_interleave(shape.beams, output_size=len(self._beam_numbers))
        prefixes = torch.cat((rows.pair_rows, shape.rows + self._beam_numbers))
        self._towers.begin(begins, special.sot, prefixes, torch.cat((rows.pair_crops, crops)))
        self._totals.masked_fill_(begins, 0)
        for kept, queued in zip(self._drawn_by, self._queued, strict=True):
            kept.copy_(queued.index_select(0, rows.number))
        self._weights.copy_(rows.weights())
        self._tokens.masked_fill_(of_rows[:, None], special.eos)
        self._log_probs.masked_fill_(of_rows, 0.0)
        self._beams.begin(of_searches)

    def _one_step(self) -> None:
        shape, vocabulary, rows = self._shape, self._vocabulary, self._rows
        hidden = self._towers.step()
        self._states.copy_(hidden.index_select(0, torch.cat((rows.members[:, 0], shape.pairs + self._beam_numbers))))
        # `_others` (N, D) are weighted means of the states under the crops of the other masks.
        read = hidden.index_select(0, rows.members.view(-1)).view(*rows.members.shape, hidden.shape[1])
        torch.bmm(self._weights[:, None], read.to(self._others.dtype), out=self._others[:, None])
        live, log_total = vocabulary.live_logits(self._states, self._may_end())
        top = vocabulary.top_of(live, log_total, max(vocabulary.top_width, self._wanted))
        of_rows, of_beams = top.part(slice(shape.rows)), top.part(slice(shape.rows, None))
        rules, uniform = self._rules_and_draws()
        num_kept = count_kept(of_rows.logits, of_rows.log_total, *rules)
        is_certain = top.contains_kept_set(torch.cat((num_kept, self._wanted_rows)))
        if shape.rows:
            temperature = self._config.sampling.temperature
            drawn = draw_from_top(vocabulary, of_rows, num_kept, self._others, uniform, temperature)
            self._append(*drawn, of_rows.log_total, rows.is_open & is_certain[: shape.rows])
        if shape.searches:
            is_sure = is_certain[shape.rows :].view(shape.searches, shape.beams).all(dim=1)
            self._search(of_beams.first(self._wanted), self._searches.is_open & is_sure)

    def _one_wide_step(self) -> None:
        """Decide over the whole vocabulary what the last step left open."""
        shape, vocabulary, rows, searches = self._shape, self._vocabulary, self._rows, self._searches
        may_end = self._may_end()
        if shape.rows:
            wide, is_wide = self._longest_waiting(rows.is_open & ~self._has_moved[: shape.rows], self._waits_of_rows)
            rules, uniform = self._rules_and_draws()
            some = (each.index_select(0, wide) for each in (self._states, may_end, *rules, self._others, uniform))
            states, is_allowed, top_k, top_p, others, uniform = some
            logits, log_total = vocabulary.all_logits(states, is_eos_allowed=is_allowed)
            temperature = self._config.sampling.temperature
            drawn = draw_from_all(vocabulary, logits, log_total, (top_k, top_p), others, uniform, temperature)
            tokens, log_probs, totals = (
                each.new_zeros(shape.rows).index_copy_(0, wide, each) for each in (*drawn, log_total)
            )
            self._append(tokens, log_probs, totals, is_wide)
        if shape.searches:
            is_close = searches.is_open & ~self._has_moved[shape.rows :: shape.beams]
            close, is_close = self._longest_waiting(is_close, self._waits_of_searches)
            beams = (close[:, None] * shape.beams + self._beam_numbers[: shape.beams]).flatten()
            states, is_allowed = (each.index_select(0, shape.rows + beams) for each in (self._states, may_end))
            top = vocabulary.sorted_logits(states, is_eos_allowed=is_allowed).first(self._wanted)
            count = len(self._beam_numbers)
            columns = (top.logits, top.ids, top.log_total, top.max_outside)
            spread = (each.new_zeros(count, *each.shape[1:]).index_copy_(0, beams, each) for each in columns)
            self._search(TopLogits(*spread), is_close)

    def _may_end(self) -> torch.Tensor:
        """Return at which prefixes EOS may follow, (N + S · B,) bool."""
        return self._towers.position + 1 >= self._config.min_length

    def _rules_and_draws(self) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return k and p of each row, as of `count_kept`, and its random number."""
        top_k, top_p, uniform = self._drawn_by
        return (top_k, top_p), uniform.gather(1, self._towers.position[: self._shape.rows, None] + 1)[:, 0]

    def _append(
        self, tokens: torch.Tensor, log_probs: torch.Tensor, log_total: torch.Tensor, goes_on: torch.Tensor
    ) -> None:
        """Append to each of the rows that `goes_on` (N,) its token."""
        rows, count = self._rows, self._shape.rows
        position, newest, before, totals = (each[:count] for each in self._of_prefixes)
        totals.add_((log_total + self._others.sum(dim=1)).where(goes_on, self._zero))
        self._log_probs.add_(log_probs.where(goes_on, self._zero))
        tokens = tokens.where(goes_on & ~torch.isin(tokens, self._ends), self._eos)
        self._tokens.scatter_(1, position[:, None], tokens[:, None])
        before.copy_(newest.where(goes_on, before))
        newest.copy_(tokens.where(goes_on, newest))
        # A row with room for one more token ends too: that token is EOS, which needs no hidden state.
        rows.is_open.logical_and_(~goes_on | ((tokens != self._eos) & (position + 3 < self._config.max_length)))
        position.add_(goes_on)
        self._has_moved[:count].copy_(goes_on)

    def _search(self, top: TopLogits, goes_on: torch.Tensor) -> None:
        """Advance the searches that `goes_on` (S,) by one token."""
        beams, searches, shape = self._beams, self._searches, self._shape
        of_beams, goes_on_beams = (shape.searches, shape.beams), goes_on[:, None].expand(-1, shape.beams)
        position, newest, before, totals = (each[shape.rows :].view(of_beams) for each in self._of_prefixes)
        totals.add_(top.log_total.view(of_beams).where(goes_on_beams, self._zero))
        scores = top.logits.double()
        log_probs = scores - top.log_total.double()[:, None]
        scores = log_probs if self._config.beam.beam_score == "logprob" else scores
        ids = top.ids.where(~self._vocabulary.is_eos(top.ids), self._eos)
        scores, log_probs, ids = (each.view(*of_beams, -1) for each in (scores, log_probs, ids))
        at = position[:, 0]
        parents, tokens = beams.advance(scores, log_probs, ids, at, goes_on)
        self._towers.reorder(parents, at)
        # A search that goes on has new beams; one that waits has the parents 0, 1, …, and keeps its tokens.
        before.copy_(newest.gather(1, parents).where(goes_on_beams, before))
        newest.copy_(tokens.where(goes_on_beams, newest))
        # A search that has used its last position stays there.
        searches.is_open.logical_and_(~goes_on | ~(beams.is_done | (at + 2 >= self._config.max_length)))
        position.add_(goes_on_beams).clamp_(max=shape.positions - 1)
        self._has_moved[shape.rows :].copy_(goes_on_beams.flatten())

    def _longest_waiting(self, is_wide: torch.Tensor, waits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the slots to decide over the whole vocabulary, and at all slots which of them are (bool)."""
        slots = (waits + 1).masked_fill(~is_wide, 0).argsort(descending=True, stable=True)
        slots = slots[: -(-len(waits) // _SLOTS_A_WIDE_ONE)]
        is_chosen = torch.zeros_like(is_wide).index_fill_(0, slots, True).logical_and_(is_wide)
        waits.copy_((waits + 1).masked_fill(~is_wide | is_chosen, 0))
        self._wide.add_(is_chosen.sum())
        return slots, is_chosen

    def _read(self, targets: Targets, num_rows: int, num_searches: int, num_steps: int) -> Decoded:
        counts = {self._rows: num_rows, self._searches: num_searches}
        read = (results[: counts[slots]] for slots, _, results in self._results)
        tokens, log_probs, totals, beams, beam_totals, wide = to_host(*read, self._wide)
        check_finite(np.isfinite(totals).all() & np.isfinite(beam_totals).all())
        eos = self._special.eos
        captions = [(until_eos(row, eos), float(each)) for row, each in zip(tokens, log_probs, strict=True)]
        found = [beam_of(row, eos) for row in beams]
        # A caption takes a step for each token, and one for its end where there is room for one.
        steps = np.minimum([1 + len(each) for each, _ in captions], self._config.max_length - 2).astype(np.int64)
        of_beams = [1 + len(beam.tokens) for beam in found]
        num_needed = int(np.repeat(targets.sizes, self._num_rules) @ steps)
        return Decoded(
            captions,
            found,
            num_pairs=num_steps * self._shape.all_pairs,
            num_needed=num_needed + self._shape.beams * sum(of_beams),
            num_wide=int(wide[0]),
            num_decisions=int(steps.sum()) + sum(of_beams),
        )
