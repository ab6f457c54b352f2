"""The probability that an expression is right: true of its target, and of no other mask at the stated position.

    P(right)  =  P(object | t) · P(phrase | t) · P(position | t)
                 · Π (1 − P(object | k) · P(phrase | k) · P(same position | k))     over the other masks k
                 · exp(−unseen · 0.3 ^ words)

"The left of the three" and "the second from the left" presuppose the other members of a row. For each member, (1 − …)
is replaced by the probability that it is a member, and the last factor (objects without a mask or with a wrong noun) is
applied once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from pseudoris.schemas.keep_rule import Flags, Floats
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing import english
from pseudoris.workers.composing.english import NounPhrase
from pseudoris.workers.composing.geometry import (
    SIDES,
    MaskPosition,
    Side,
    doubtless_lead,
    inside_third,
    maybe_lies,
    position_of,
    surely_lies,
)
from pseudoris.workers.composing.posterior import Posterior, drawn_by_mask, evidence_of, is_object

# Words in a phrase beside its noun. Each one excludes more other masks, and each one may be wrong.
_MAX_WORDS: Final = 2
# Caps a certain rival, because 0 has no logarithm.
MAX_RIVAL: Final = 0.999
# A mask is a member of a row above this probability.
IS_MEMBER: Final = 0.5
# Each word of a phrase beside its noun multiplies the risk that it means something unseen. Set by hand.
_UNSEEN_WORD: Final = 0.3

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The N masks of an image, numbered in order: the posterior and the position of each."""

    posterior: Posterior
    positions: Sequence[MaskPosition]
    config: ComposingConfig

    @cached_property
    def phrases(self) -> Sequence[Sequence[NounPhrase]]:
        """By mask, the likely phrases with its likeliest noun; one phrase for each set of words."""
        return [self._phrases(mask) for mask in range(len(self.positions))]

    @cached_property
    def anchors(self) -> Mapping[int, tuple[NounPhrase, float]]:
        """By mask, the phrase that most likely refers to this mask alone, and the log of that probability."""
        found = {}
        for mask, phrases in enumerate(self.phrases):
            right = {phrase: self.log_right(mask, phrase, np.ones(len(self.positions))) for phrase in phrases}
            best = max(right, key=lambda phrase: right[phrase], default=None)
            if best is not None and self.is_likely(right[best]):
                found[mask] = (best, right[best])
        return found

    @cached_property
    def lead(self) -> Mapping[Side, Floats]:
        """By side, the probability that mask n is beyond doubt further to that side than mask m, (N, N)."""
        found = {}
        for side in SIDES:
            along = np.array([position.along(side) for position in self.positions])
            found[side] = doubtless_lead(along[:, None] - along[None, :])
        return found

    @cached_property
    def inside(self) -> Mapping[Side, Floats]:
        """By side, the probability that a viewer places a mask in that third of the image, (N,)."""
        return {side: np.array([inside_third(side, each) for each in self.positions]) for side in SIDES}

    @cached_property
    def beside(self) -> Mapping[int, Mapping[Side, tuple[Flags, Floats]]]:
        """By anchor and side, which other masks are surely there, (N,) bool, and which may be, (N,) 0 or 1."""
        found: dict[int, dict[Side, tuple[Flags, Floats]]] = {anchor: {} for anchor in self.anchors}
        for anchor, side in product(found, SIDES):
            there = self.positions[anchor]
            surely = np.array([surely_lies(side, each, there) for each in self.positions], np.bool_)
            maybe = np.array([maybe_lies(side, each, there) for each in self.positions], np.float64)
            # A mask is not beside itself.
            surely[anchor], maybe[anchor] = False, 0.0
            found[anchor][side] = surely, maybe
        return found

    def is_likely(self, log_right: float) -> bool:
        """Return whether an expression is likely enough to be a mask's first expression."""
        return math.exp(log_right) > self.config.posterior.min_first

    def rivals(self, phrase: NounPhrase) -> Floats:
        """Return the probability that each mask is an object that a phrase is true of, (N,) float64, below 1."""
        return np.minimum(self.posterior.is_object * self.posterior.fits(phrase), MAX_RIVAL)

    def members(self, phrase: NounPhrase, mask: int) -> Ints:
        """Return the numbers of the other masks that a phrase is probably true of."""
        found = np.flatnonzero(self.rivals(phrase) > IS_MEMBER)
        return np.asarray(found[found != mask], np.int64)

    def log_right(self, mask: int, phrase: NounPhrase, is_rival: Floats) -> float:
        """Return the log of the probability that a phrase refers to one mask alone.

        Args:
            mask: Its number.
            phrase: The phrase.
            is_rival: (N,) float64, the probability that the stated position fits each mask as well.
        """
        rivals = self.rivals(phrase)
        against = rivals * is_rival
        against[mask] = 0.0
        return float(np.log(rivals[mask]) + np.log1p(-against).sum()) + self.log_unseen(phrase)

    def log_counted(self, mask: int, phrase: NounPhrase, row: Ints, is_placed: Floats) -> float:
        """Return the log of the probability that a phrase is true of a mask and of those in `row`, and of no other.

        Args:
            mask: Its number.
            phrase: The phrase.
            row: The other members, (R,).
            is_placed: (R,) float64, the probability that each is where the expression says.
        """
        is_rival = np.ones(len(self.positions))
        is_rival[row] = 0.0
        members = np.log(self.rivals(phrase)[row]) + np.log(np.maximum(is_placed, 1.0 - MAX_RIVAL))
        return self.log_right(mask, phrase, is_rival) + float(members.sum()) + self.log_unseen(phrase, len(row))

    def log_unseen(self, phrase: NounPhrase, presupposed: int = 1) -> float:
        """Return the log of the probability that a phrase fits no object without a mask or with a wrong noun."""
        return -self.config.posterior.unseen * _UNSEEN_WORD ** len(phrase.words) * presupposed

    def _phrases(self, mask: int) -> list[NounPhrase]:
        noun = self.posterior.noun(mask)
        if noun is None:
            return []
        alone = english.noun_phrase(noun, noun)
        drawn = [each for each in self.posterior.evidence[mask].phrases if each.noun == noun]
        longer = [each for each in drawn if 0 < len(each.words) <= _MAX_WORDS]
        distinct: dict[frozenset[str], NounPhrase] = {}
        for phrase in (*([alone] if alone is not None else []), *longer):
            distinct.setdefault(phrase.words, phrase)
        # An upper bound: no expression that contains the phrase is likelier than the phrase itself.
        return [each for each in distinct.values() if self.is_likely(math.log(self.rivals(each)[mask]))]


def likelihood_of(image: ShardImage, config: ComposingConfig) -> Likelihood:
    """Return the likelihood of an image after the filter stage; expressions of other sources are ignored.

    Raises:
        ValueError: `counts` is "probability", and a candidate has no caption score.
    """
    drawn, weights = drawn_by_mask(image), config.posterior
    evidence = [evidence_of(drawn.get(mask.mask_id, ()), weights.counts) for mask in image.masks]
    posterior = Posterior(weights, evidence, is_object(image.masks, weights))
    return Likelihood(posterior, [position_of(mask) for mask in image.masks], config)
