"""Teacher-forced log-probabilities: how likely each text is under each crop, in one walk down the texts' prefix tree.

Texts of several masks share their prefixes, and what a prefix needs of the text tower is computed once for all crops.
The softmax is the whole vocabulary's: nothing is kept back as in sampling, and EOS may come at any place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from workers.captions.towers import CachedDecoder, Pages
from workers.captions.tree import Bools, Frontier, Ints, extend
from workers.captions.vocabulary import SpecialTokens, Vocabulary, check_finite
from workers.device import to_device

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The tokens of R texts, EOS included.

    Attributes:
        tokens: (R, L) int64, filled up with EOS.
        lengths: (R,) number of tokens of each.
    """

    tokens: Ints
    lengths: Ints

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], *, eos: int, max_prefix_length: int) -> Self:
        """Take token ids without SOT and EOS; beyond `max_prefix_length`, SOT counted, a text is cut."""
        cut = [[*text[: max_prefix_length - 1], eos] for text in texts]
        lengths = np.array([len(text) for text in cut], dtype=np.int64)
        tokens = np.full((len(cut), int(lengths.max(initial=0))), eos, dtype=np.int64)
        for row, text in enumerate(cut):
            tokens[row, : len(text)] = text
        return cls(tokens, lengths)

    def rows(self, index: Ints) -> TokenRows:
        """Return the texts in `index`, (R',) int64."""
        return TokenRows(self.tokens[index], self.lengths[index])


@dataclass(frozen=True, slots=True)
class Questions:
    """Which text is read under which of P pictures.

    Attributes:
        texts: R of them.
        asked: (R, P) bool; at least the pictures of `own`.
        own: (R, P) int64, how many of the target's crops a picture is.
        give_up_at: (R,) float64. A text whose log-probabilities under `own` have summed up to no more is read under
            `own` alone from there on; -inf reads all.
    """

    texts: TokenRows
    asked: Bools
    own: Ints
    give_up_at: Floats


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is asked, and what changes in place: (R, P) float64 sums so far, (R, P) bool what is still read."""

    questions: Questions
    sums: Floats
    needs: Bools


@dataclass(frozen=True, slots=True)
class _Branch:
    """Texts that share their way down so far.

    Attributes:
        live: (R',) int64, which texts.
        parents: (R',) int64, the place of each one's prefix in `frontier`.
        frontier: Prefixes of `length` tokens after SOT; None before the first.
        pages: Their caches.
        length: Tokens read.
    """

    live: Ints
    parents: Ints
    frontier: Frontier | None = None
    pages: Pages | None = None
    length: int = 0


class ForcedReader:
    """Reads texts with a decoder that has begun with the pictures."""

    def __init__(
        self, decoder: CachedDecoder, vocabulary: Vocabulary, special: SpecialTokens, *, budget_bytes: int
    ) -> None:
        """Hold the towers; the caches of prefixes stay below `budget_bytes`."""
        self._decoder, self._vocabulary, self._sot = decoder, vocabulary, special.sot
        self._budget_bytes = budget_bytes
        # Pairs (prefix, picture) computed so far; a benchmark reads it.
        self.num_computed = 0

    @torch.inference_mode()
    def read(self, questions: Questions) -> Floats:
        """Return Σ log p(token | prefix, picture) of each text, (R, P) float64; where it was given up, a part of it.

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        sums, rows = np.zeros(questions.asked.shape), np.arange(len(questions.asked))
        self._descend(_Reading(questions, sums, questions.asked.copy()), _Branch(rows, np.zeros_like(rows)))
        return sums

    def _descend(self, reading: _Reading, branch: _Branch) -> None:
        """Read a branch to its end."""
        while len(branch.live):
            wider = extend(branch.frontier, branch.parents, self._newest(reading, branch), reading.needs[branch.live])
            num_steps = int(reading.questions.texts.lengths[branch.live].max()) - branch.length
            if len(branch.live) > 1 and self._decoder.bytes_after(wider, num_steps) > self._budget_bytes:
                self._descend_halves(reading, branch)
                return
            self._decoder.make_room(wider, num_steps, self._budget_bytes)
            branch = self._step(reading, branch, wider)

    def _descend_halves(self, reading: _Reading, branch: _Branch) -> None:
        """Read a branch one half after the other, from the caches that it has come to."""
        mark = self._decoder.mark()
        # Texts of one prefix stay together as far as they can.
        for half in np.array_split(np.argsort(branch.parents, kind="stable"), 2):
            self._descend(reading, replace(branch, live=branch.live[half], parents=branch.parents[half]))
            self._decoder.rewind(mark)

    def _step(self, reading: _Reading, branch: _Branch, wider: Frontier) -> _Branch:
        """Read one token more; return the texts that go on."""
        texts, live, length = reading.questions.texts, branch.live, branch.length
        hidden, pages = self._decoder.step(wider, branch.pages)
        self.num_computed += wider.num_pairs
        self._add(reading.sums, reading.needs, live, wider, hidden, texts.tokens[live, length])
        _give_up(reading.questions, reading.sums, reading.needs, live)
        goes_on = texts.lengths[live] > length + 1
        return _Branch(live[goes_on], wider.row_prefix[goes_on], wider, pages, length + 1)

    def _newest(self, reading: _Reading, branch: _Branch) -> Ints:
        """The last token of each text's prefix, (R',) int64."""
        if not branch.length:
            return np.full(len(branch.live), self._sot, np.int64)
        return np.asarray(reading.questions.texts.tokens[branch.live, branch.length - 1])

    def _add(
        self, sums: Floats, needs: Bools, live: Ints, frontier: Frontier, hidden: torch.Tensor, following: Ints
    ) -> None:
        """Add the log-probability of each text's next token under each picture that it is read under."""
        row, picture = np.nonzero(needs[live])
        pairs = frontier.pair_of[frontier.row_prefix[row], picture]
        # Texts that go on alike ask the same.
        asked, answer_of = np.unique(pairs * self._vocabulary.size + following[row], return_inverse=True)
        pair, token = (to_device(part, hidden.device) for part in np.divmod(asked, self._vocabulary.size))
        totals = self._vocabulary.log_totals(hidden)
        logits = self._vocabulary.logits_at(hidden[pair], token[:, None])[:, 0]
        check_finite(totals, logits)
        answers = (logits.double() - totals.double()[pair]).cpu().numpy()
        sums[live[row], picture] += answers[answer_of]


def _give_up(questions: Questions, sums: Floats, needs: Bools, live: Ints) -> None:
    own = questions.own[live]
    is_hopeless = (sums[live] * own).sum(axis=1) <= questions.give_up_at[live]
    needs[live[is_hopeless]] = own[is_hopeless] > 0
