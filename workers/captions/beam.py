"""Beam search as open_clip runs it through transformers' group beam search, for one crop.

open_clip asks for 6 beams in 3 groups and gives no diversity term: every group then does the same search
over `num_beams / num_groups` beams, so one is done here (a test runs all three). The score of a beam is
the sum of raw logits, or of log-probabilities, over length^penalty; length counts SOT and EOS.

Source: open_clip 3.3.0, `CoCa._generate_beamsearch`; transformers 4.56, `BeamSearchScorer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# What transformers gives all beams but the first, so that the first step takes its candidates from one beam.
_SLEEPING = -1e9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to go on: a beam, the token it appends, and what that makes of the beam's sums.

    Attributes:
        score: Sum of logits or log-probabilities, this token's included.
        log_prob: Sum of natural log-probabilities under the full softmax, this token's included.
        token: The token appended.
        beam: Place of the beam it continues.
    """

    score: float
    log_prob: float
    token: int
    beam: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished caption.

    Attributes:
        score: Sum over length^penalty.
        tokens: Without SOT and EOS.
        log_prob: Sum of natural log-probabilities, EOS included where it was emitted.
    """

    score: float
    tokens: tuple[int, ...]
    log_prob: float


@dataclass(slots=True)
class Beam:
    """A caption under way: its sums and its tokens without SOT."""

    score: float
    log_prob: float = 0.0
    tokens: tuple[int, ...] = ()


@dataclass(slots=True)
class BeamSearch:
    """The search over one crop; `advance` moves it by one token."""

    num_beams: int
    eos: int
    length_penalty: float
    beams: list[Beam] = field(init=False)
    finished: list[Hypothesis] = field(init=False, default_factory=list)
    is_done: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.beams = [Beam(0.0 if place == 0 else _SLEEPING) for place in range(self.num_beams)]

    @property
    def num_candidates(self) -> int:
        """How many candidates a step looks at: enough to fill the beams if half of them end."""
        return 2 * self.num_beams

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        """Take the step's best candidates; return for each new beam the place of the beam it continues.

        Args:
            candidates: At least the `num_candidates` best over all beams, in any order.
        """
        best = sorted(candidates, key=lambda c: (-c.score, c.beam, c.token))[: self.num_candidates]
        length = len(self.beams[0].tokens) + 2  # SOT, and the token about to be appended
        going_on = [candidate for candidate in best if candidate.token != self.eos]
        for candidate in best[: self.num_beams]:
            if candidate.token == self.eos:
                self._finish(candidate.score, self.beams[candidate.beam].tokens, candidate.log_prob, length)
        self.is_done = self._cannot_improve(best[0].score, length)
        chosen = going_on[: self.num_beams]
        self.beams = [Beam(c.score, c.log_prob, (*self.beams[c.beam].tokens, c.token)) for c in chosen]
        return [candidate.beam for candidate in chosen]

    def result(self) -> Hypothesis:
        """Return the best caption; beams that are still open count as they stand, without an EOS."""
        if not self.is_done:
            for beam in self.beams:
                self._finish(beam.score, beam.tokens, beam.log_prob, len(beam.tokens) + 1)
        # Of equal scores the later one: transformers pops the end of a stable ascending sort.
        return sorted(self.finished, key=lambda hypothesis: hypothesis.score)[-1]

    def _finish(self, score: float, tokens: tuple[int, ...], log_prob: float, length: int) -> None:
        mean = self._mean(score, length)
        if len(self.finished) < self.num_beams or mean > self._worst():
            self.finished.append(Hypothesis(mean, tokens, log_prob))
            if len(self.finished) > self.num_beams:
                del self.finished[min(range(len(self.finished)), key=lambda place: self.finished[place].score)]

    def _mean(self, score: float, length: int) -> float:
        return score / math.pow(length, self.length_penalty)

    def _worst(self) -> float:
        return min(hypothesis.score for hypothesis in self.finished)

    def _cannot_improve(self, best_score: float, length: int) -> bool:
        if len(self.finished) < self.num_beams:
            return False
        return self._worst() >= self._mean(best_score, length)
