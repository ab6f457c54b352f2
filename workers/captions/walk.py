"""One walk down a prefix tree: level by level, in parts where the caches would outgrow their budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch

from schemas.config import CaptionsConfig
from workers.captions.beam import BeamSearch, Candidate
from workers.captions.rules import Heads, Others
from workers.captions.sampling import Sampler, SamplerRows
from workers.captions.search import Live, LiveBeams
from workers.captions.towers import CachedDecoder, Pages
from workers.captions.tree import Frontier, Ints, extend
from workers.captions.vocabulary import SpecialTokens, Vocabulary, check_finite
from workers.device import to_device

# Hidden states of the others are gathered for so many lines at a time.
_LINES_A_MEAN = 256


def prefix_budget(config: CaptionsConfig, *, image_bytes: int) -> int:
    """Return the bytes that the caches of prefixes may take: of `cache_bytes`, what `image_bytes` leave.

    An eighth is put by for temporaries, and an eighth is theirs in any case.
    """
    return max(config.cache_bytes * 7 // 8 - image_bytes, config.cache_bytes // 8)


@dataclass(frozen=True, slots=True)
class WalkRules:
    """What a walk needs of the config, with the bytes that are left for the prefixes' caches."""

    special: SpecialTokens
    min_length: int
    max_length: int
    temperature: float
    num_beams: int
    beam_score: Literal["logit", "logprob"]
    length_penalty: float
    budget_bytes: int

    @classmethod
    def of(cls, config: CaptionsConfig, special: SpecialTokens, *, image_bytes: int) -> Self:
        """Read `config`; the caches get what `prefix_budget` leaves beside image keys and values of `image_bytes`."""
        return cls(
            special=special,
            min_length=config.min_length,
            max_length=config.max_length,
            temperature=config.sampling.temperature,
            num_beams=config.beam.num_beams // config.beam.num_groups,
            beam_score=config.beam.beam_score,
            length_penalty=config.beam.length_penalty,
            budget_bytes=prefix_budget(config, image_bytes=image_bytes),
        )


@dataclass(slots=True)
class WalkCounts:
    """What a walk cost, over all levels.

    Attributes:
        num_asked: Pairs (prefix, crop) that the rows read: what caches alone, without a tree, would compute.
        num_computed: Pairs that were computed.
        peak_cache_bytes: Most that the caches had taken; in an engine's counts with the keys and values of the image
            tokens, in a walk's without them.
    """

    num_asked: int = 0
    num_computed: int = 0
    peak_cache_bytes: int = 0

    def include(self, other: WalkCounts, *, image_bytes: int) -> None:
        """Add another walk's counts; its `image_bytes` of keys and values were there at the same time."""
        self.num_asked += other.num_asked
        self.num_computed += other.num_computed
        self.peak_cache_bytes = max(self.peak_cache_bytes, other.peak_cache_bytes + image_bytes)


class TreeWalk:
    """Decodes all rows and beams over the crops that the decoder has begun with."""

    def __init__(
        self,
        decoder: CachedDecoder,
        vocabulary: Vocabulary,
        *,
        others: Others,
        rows: SamplerRows,
        rules: WalkRules,
        picture_of: Ints,
    ) -> None:
        """Prepare the walk.

        Args:
            decoder: Has begun with the pictures: crops of which no two are equal.
            vocabulary: The model's.
            others: Of the C crops, as numbers among them.
            rows: The sampling rows.
            rules: Lengths, beams and budget.
            picture_of: (C,) the picture of each crop; equal crops have one, and what is computed for it serves all.
        """
        self._decoder, self._vocabulary, self._rules = decoder, vocabulary, rules
        self._target = rows.target
        self._others, self._members = others, others.indices.cpu().numpy()
        num_crops = len(self._members)
        self._picture_of, num_pictures = picture_of, int(picture_of.max()) + 1
        self._needs_own = np.eye(num_pictures, dtype=np.bool_)[picture_of]
        self._needs_all = self._needs_own.copy()
        self._needs_all[np.arange(num_crops)[:, None], picture_of[self._members]] = True
        self._sampler = Sampler(rows, vocabulary, eos=rules.special.eos, temperature=rules.temperature)
        self._tokens = np.full((len(rows.target), rules.max_length), rules.special.eos, dtype=np.int64)
        self._log_probs = np.zeros(len(rows.target))
        self.counts = WalkCounts()
        self.searches = [BeamSearch(rules.num_beams, rules.special.eos, rules.length_penalty) for _ in range(num_crops)]

    def sampled(self, row: int) -> tuple[tuple[int, ...], float]:
        """Return a finished row's tokens without SOT and EOS, and its log-probability."""
        tokens = self._tokens[row].tolist()
        return tuple(tokens[: tokens.index(self._rules.special.eos)]), float(self._log_probs[row])

    def run(self) -> None:
        """Decode everything; results stand in `searches` and `sampled`."""
        num_rows = len(self._target)
        zeros = np.zeros(num_rows, dtype=np.int64)
        root = (0,) * self._rules.num_beams
        beams = tuple(LiveBeams(crop, search, root) for crop, search in enumerate(self.searches))
        live = Live(np.arange(num_rows), self._target, zeros, zeros + self._rules.special.sot, beams)
        self._descend(live, None, None, length=1)

    def _descend(self, live: Live, frontier: Frontier | None, pages: Pages | None, *, length: int) -> None:
        """Take `live` from prefixes of `length` tokens to the end."""
        while live.num_searches and length < self._rules.max_length:
            wider, num_asked = self._widen(live, frontier)
            needed = self._decoder.bytes_after(wider, self._rules.max_length - length)
            if needed > self._rules.budget_bytes and live.num_searches > 1:
                mark = self._decoder.mark()
                for part in live.halves():
                    self._descend(part, frontier, pages, length=length)
                    self._decoder.rewind(mark)
                return
            self._decoder.make_room(wider, self._rules.max_length - length, self._rules.budget_bytes)
            self.counts.num_asked += num_asked
            self.counts.num_computed += wider.num_pairs
            self.counts.peak_cache_bytes = max(self.counts.peak_cache_bytes, self._decoder.allocated_bytes)
            hidden, pages = self._decoder.step(wider, pages)
            live = self._advance(live, wider, hidden, length)
            frontier, length = wider, length + 1

    def _widen(self, live: Live, frontier: Frontier | None) -> tuple[Frontier, int]:
        """The next level, and the pairs that its rows ask for, shared ones counted for each."""
        parents, tokens, targets = live.requests(self._rules.special.sot)
        needs = self._needs_own[targets]
        needs[: len(live.rows)] = self._needs_all[live.targets]
        return extend(frontier, parents, tokens, needs), int(needs.sum())

    def _advance(self, live: Live, frontier: Frontier, hidden: torch.Tensor, length: int) -> Live:
        is_eos_allowed = length >= self._rules.min_length
        prefixes = frontier.row_prefix
        beams = self._advance_beams(live, frontier, hidden, is_eos_allowed)
        parents, tokens = prefixes[: len(live.rows)], live.tokens
        is_open = np.zeros(len(live.rows), dtype=np.bool_)
        if len(live.rows):
            tokens = self._sample(live, frontier, hidden, length)
            # The last token is EOS by force and needs no hidden state.
            is_open = (tokens != self._rules.special.eos) & (length + 2 < self._rules.max_length)
        return live.continuing(is_open, parents, tokens, beams)

    def _sample(self, live: Live, frontier: Frontier, hidden: torch.Tensor, length: int) -> Ints:
        # Rows of one (prefix, target) share a line: one projection, whatever the number of decoders.
        keys = frontier.row_prefix[: len(live.rows)] * len(self._picture_of) + live.targets
        lines, own_of = np.unique(keys, return_inverse=True)
        prefix, target = np.divmod(lines, len(self._picture_of))
        pairs = frontier.pair_of[prefix, self._picture_of[target]]
        tokens, log_probs = self._sampler.next_tokens(
            live.rows,
            own_of,
            own=hidden[to_device(pairs, hidden.device)],
            others=self._mean_of_others(prefix, target, frontier, hidden),
            prefix_length=length,
            is_eos_allowed=length >= self._rules.min_length,
        )
        self._tokens[live.rows, length - 1] = tokens
        self._log_probs[live.rows] += log_probs
        return tokens

    def _mean_of_others(self, prefix: Ints, target: Ints, frontier: Frontier, hidden: torch.Tensor) -> torch.Tensor:
        """Σ_j (s_ij / M) h_j for each line: the projection is linear, so one serves all others together."""
        pairs = frontier.pair_of[prefix[:, None], self._picture_of[self._members[target]]]
        weights = self._others.weights[to_device(target, hidden.device)]
        index = to_device(pairs, hidden.device)
        means = [
            torch.bmm(weight[:, None], hidden[part].to(weight.dtype))[:, 0]
            for weight, part in zip(torch.split(weights, _LINES_A_MEAN), torch.split(index, _LINES_A_MEAN), strict=True)
        ]
        return torch.cat(means)

    def _advance_beams(
        self, live: Live, frontier: Frontier, hidden: torch.Tensor, is_eos_allowed: bool
    ) -> tuple[LiveBeams, ...]:
        if not live.beams:
            return ()
        num_beams = self._rules.num_beams
        prefixes = frontier.row_prefix[len(live.rows) :].reshape(-1, num_beams)
        pictures = self._picture_of[[beams.crop for beams in live.beams]]
        pairs = frontier.pair_of[prefixes, pictures[:, None]].reshape(-1)
        heads = self._beam_heads(hidden[to_device(pairs, hidden.device)], is_eos_allowed)
        check_finite(heads.log_total)
        log_probs = (heads.logits.double() - heads.log_total.double()[:, None]).cpu().numpy()
        scores = log_probs if self._rules.beam_score == "logprob" else heads.logits.double().cpu().numpy()
        table = (scores, log_probs, heads.ids.cpu().numpy())
        advanced = []
        for place, beams in enumerate(live.beams):
            first = place * num_beams
            candidates = _candidates(beams.search, tuple(part[first : first + num_beams] for part in table))
            origins = beams.search.advance(candidates)
            if not beams.search.is_done:
                advanced.append(LiveBeams(beams.crop, beams.search, tuple(prefixes[place][origins].tolist())))
        return tuple(advanced)

    def _beam_heads(self, hidden: torch.Tensor, is_eos_allowed: bool) -> Heads:
        """The best tokens of each beam, as many as a search looks at."""
        wanted = min(2 * self._rules.num_beams, self._vocabulary.size)
        heads = self._vocabulary.heads(hidden, is_eos_allowed=is_eos_allowed)
        if heads.logits.shape[1] < wanted or not bool(heads.holds(_full(len(hidden), wanted, hidden)).all()):
            heads = self._vocabulary.whole_heads(hidden, is_eos_allowed=is_eos_allowed)
        return Heads(heads.logits[:, :wanted], heads.ids[:, :wanted], heads.log_total, heads.rest_max)


def _full(count: int, value: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.int64, device=like.device)


def _candidates(search: BeamSearch, table: tuple[np.ndarray, ...]) -> list[Candidate]:
    scores, log_probs, ids = (part.tolist() for part in table)
    return [
        Candidate(beam.score + score, beam.log_prob + log_prob, token, place)
        for place, beam in enumerate(search.beams)
        for score, log_prob, token in zip(scores[place], log_probs[place], ids[place], strict=True)
    ]
