"""Teacher forcing: the log-probability of each text under each crop, over one prefix tree of the texts.

Texts of several masks share their prefixes; the text tower computes a prefix once for all crops. The softmax is over
the whole vocabulary, without a kept set, and EOS may follow any token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.workers.captions.cached_towers import CachedCocaTowers, CacheIndex
from pseudoris.workers.captions.prefix_tree import Bools, Ints, PrefixLevel, extend
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, all_finite, check_finite
from pseudoris.workers.device import to_device, to_host

Floats = NDArray[np.float64]


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

    def rows(self, index: Ints) -> TokenRows:
        """Return the texts in `index`, (R',) int64."""
        return TokenRows(self.tokens[index], self.lengths[index])


@dataclass(frozen=True, slots=True)
class TextPrefixes:
    """The texts to score, and the unique crops, of P, to score each one under.

    Attributes:
        texts: R texts.
        asked: (R, P) bool, the crops to score each text under; at least the unique crops of `own`.
        own: (R, P) int64, how many of the target's crops equal each unique crop.
        give_up_at: (R,) float64. If the log-probability of a text under `own` falls to this, the rest of the text is
            scored under `own` only. -inf scores everything.
    """

    texts: TokenRows
    asked: Bools
    own: Ints
    give_up_at: Floats


@dataclass(frozen=True, slots=True)
class _Reading:
    """The prefixes, and what changes in place: (R, P) float64 the sums so far, (R, P) bool what is still scored."""

    prefixes: TextPrefixes
    sums: Floats
    needs: Bools


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
    cache_index: CacheIndex | None = None
    length: int = 0


class TeacherForcing:
    """Scores texts with towers that attend to the unique crops."""

    def __init__(
        self, towers: CachedCocaTowers, vocabulary: Vocabulary, special: SpecialTokens, *, budget_bytes: int
    ) -> None:
        """Keep the towers. The caches of prefixes stay below `budget_bytes`."""
        self._towers, self._vocabulary, self._sot = towers, vocabulary, special.sot
        self._budget_bytes = budget_bytes
        # Pairs (prefix, unique crop) computed so far. For benchmarks.
        self.num_computed = 0

    @torch.inference_mode()
    def read(self, prefixes: TextPrefixes) -> Floats:
        """Return Σ log p(token | prefix, crop) of each text, (R, P) float64; a partial sum if `give_up_at` cut it.

        Raises:
            ImageError: A score is beyond the range of the precision.
        """
        sums, rows = np.zeros(prefixes.asked.shape), np.arange(len(prefixes.asked))
        self._descend(_Reading(prefixes, sums, prefixes.asked.copy()), _Branch(rows, np.zeros_like(rows)))
        return sums

    def _descend(self, reading: _Reading, branch: _Branch) -> None:
        """Score a branch to its end."""
        while len(branch.active):
            next_level = extend(
                branch.level, branch.parents, self._newest(reading, branch), reading.needs[branch.active]
            )
            num_steps = int(reading.prefixes.texts.lengths[branch.active].max()) - branch.length
            if len(branch.active) > 1 and self._towers.bytes_after(next_level, num_steps) > self._budget_bytes:
                self._descend_halves(reading, branch)
                return
            self._towers.make_room(next_level, num_steps, self._budget_bytes)
            branch = self._step(reading, branch, next_level)

    def _descend_halves(self, reading: _Reading, branch: _Branch) -> None:
        """Score one half of a branch, then the other, both from the branch's caches."""
        mark = self._towers.mark()
        # Texts of one prefix stay together where possible.
        for half in np.array_split(np.argsort(branch.parents, kind="stable"), 2):
            self._descend(reading, replace(branch, active=branch.active[half], parents=branch.parents[half]))
            self._towers.rewind(mark)

    def _step(self, reading: _Reading, branch: _Branch, next_level: PrefixLevel) -> _Branch:
        """Score one more token; return the texts that go on."""
        texts, active, length = reading.prefixes.texts, branch.active, branch.length
        hidden, cache_index = self._towers.step(next_level, branch.cache_index)
        self.num_computed += next_level.num_pairs
        self._add(reading.sums, reading.needs, active, next_level, hidden, texts.tokens[active, length])
        _give_up(reading.prefixes, reading.sums, reading.needs, active)
        goes_on = texts.lengths[active] > length + 1
        return _Branch(active[goes_on], next_level.row_prefix[goes_on], next_level, cache_index, length + 1)

    def _newest(self, reading: _Reading, branch: _Branch) -> Ints:
        """The last token of each text's prefix, (R',) int64."""
        if not branch.length:
            return np.full(len(branch.active), self._sot, np.int64)
        return np.asarray(reading.prefixes.texts.tokens[branch.active, branch.length - 1])

    def _add(
        self, sums: Floats, needs: Bools, active: Ints, level: PrefixLevel, hidden: torch.Tensor, following: Ints
    ) -> None:
        """Add the log-probability of each text's next token under each unique crop that it is scored under."""
        row, unique_crop = np.nonzero(needs[active])
        pairs = level.pair_of[level.row_prefix[row], unique_crop]
        # Texts with the same next token need the same value.
        asked, answer_of = np.unique(pairs * self._vocabulary.size + following[row], return_inverse=True)
        pair, token = (to_device(part, hidden.device) for part in np.divmod(asked, self._vocabulary.size))
        totals = self._vocabulary.log_totals(hidden)
        logits = self._vocabulary.logits_at(hidden[pair], token[:, None])[:, 0]
        answers, is_finite = to_host(logits.double() - totals.double()[pair], all_finite(totals, logits))
        check_finite(is_finite)
        sums[active[row], unique_crop] += answers[answer_of]


def _give_up(prefixes: TextPrefixes, sums: Floats, needs: Bools, active: Ints) -> None:
    own = prefixes.own[active]
    is_hopeless = (sums[active] * own).sum(axis=1) <= prefixes.give_up_at[active]
    needs[active[is_hopeless]] = own[is_hopeless] > 0
