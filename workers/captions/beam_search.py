"""Beam search as open_clip runs it through transformers' group beam search, for one crop.

open_clip uses 6 beams in 3 groups without a diversity term. So every group does the same search over `num_beams /
num_groups` beams, and one group is enough here (a test runs all three). The score of a beam is the sum of raw logits,
or of log-probabilities, divided by length^penalty; length counts SOT, and EOS unless `counts_eos` is false. Whether
any open beam can still improve is asked with the token that was just appended counted, EOS or not.

Source: open_clip 3.3.0, `CoCa._generate_beamsearch`; transformers 4.56, `BeamSearchScorer`; without `counts_eos`
transformers 4.30.2, of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# transformers starts all beams except the first with this score, so that the first step extends only one beam.
_INACTIVE = -1e9


@dataclass(frozen=True, slots=True)
class BeamExtension:
    """One way to extend a beam: the token to append, and the sums with it.

    Attributes:
        score: Sum of logits or log-probabilities, including this token's.
        log_prob: Sum of natural log-probabilities under the full softmax, including this token's.
        token: The token appended.
        beam: Index of the beam that is extended.
    """

    score: float
    log_prob: float
    token: int
    beam: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished caption.

    Attributes:
        score: Sum divided by length^penalty.
        tokens: Without SOT and EOS.
        log_prob: Sum of natural log-probabilities, including EOS if it was emitted.
    """

    score: float
    tokens: tuple[int, ...]
    log_prob: float


@dataclass(slots=True)
class Beam:
    """An unfinished caption: its sums, and its tokens without SOT."""

    score: float
    log_prob: float = 0.0
    tokens: tuple[int, ...] = ()


@dataclass(slots=True)
class BeamSearch:
    """The search over one crop; `advance` extends it by one token."""

    num_beams: int
    eos: int
    length_penalty: float
    counts_eos: bool = True
    beams: list[Beam] = field(init=False)
    finished: list[Hypothesis] = field(init=False, default_factory=list)
    is_done: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.beams = [Beam(0.0 if index == 0 else _INACTIVE) for index in range(self.num_beams)]

    def advance(self, extensions: Sequence[BeamExtension]) -> list[int]:
        """Apply the best extensions of a step; return for each new beam the index of the beam that it extends.

        Args:
            extensions: At least the best 2 · num_beams over all beams, in any order: enough to fill the beams if half
                of them end.
        """
        best = sorted(extensions, key=lambda c: (-c.score, c.beam, c.token))[: 2 * self.num_beams]
        length = len(self.beams[0].tokens) + 2  # SOT, and the token about to be appended
        unfinished = [extension for extension in best if extension.token != self.eos]
        for extension in best[: self.num_beams]:
            if extension.token == self.eos:
                counted = length if self.counts_eos else length - 1
                self._finish(extension.score, self.beams[extension.beam].tokens, extension.log_prob, counted)
        is_full = len(self.finished) == self.num_beams
        self.is_done = is_full and self._worst() >= best[0].score / math.pow(length, self.length_penalty)
        chosen = unfinished[: self.num_beams]
        self.beams = [Beam(c.score, c.log_prob, (*self.beams[c.beam].tokens, c.token)) for c in chosen]
        return [extension.beam for extension in chosen]

    def result(self) -> Hypothesis:
        """Return the best caption. An unfinished beam counts too, without EOS."""
        if not self.is_done:
            for beam in self.beams:
                self._finish(beam.score, beam.tokens, beam.log_prob, len(beam.tokens) + 1)
        # Among equal scores the last one wins: transformers pops the end of a stable ascending sort.
        return sorted(self.finished, key=lambda hypothesis: hypothesis.score)[-1]

    def _finish(self, score: float, tokens: tuple[int, ...], log_prob: float, length: int) -> None:
        mean = score / math.pow(length, self.length_penalty)
        if len(self.finished) < self.num_beams or mean > self._worst():
            self.finished.append(Hypothesis(mean, tokens, log_prob))
            if len(self.finished) > self.num_beams:
                del self.finished[min(range(len(self.finished)), key=lambda index: self.finished[index].score)]

    def _worst(self) -> float:
        return min(hypothesis.score for hypothesis in self.finished)
