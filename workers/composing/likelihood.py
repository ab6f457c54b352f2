"""How likely an expression is right: true of its target, and of nothing else where it says that the target stands.

    P(right)  =  P(object | t) · P(phrase | t) · P(placed as said)
                 · Π (1 − P(object | k) · P(phrase | k) · P(not told apart by the place | k))     over the other masks k
                 · exp(−unseen · unseen_word ^ words)

A row of a stated number, and a rank in it, presuppose their other members: of each the probability that it is one takes
the place of (1 − …), and the last factor, of what has no mask or is misnamed, counts once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.composing import ComposingConfig, PosteriorConfig
from schemas.keeping import Flags, Floats
from schemas.shard import ExpressionRecord, MaskRecord
from workers.composing.evidence import evidence_of
from workers.composing.geometry import (
    SIDES,
    Margins,
    Place,
    Side,
    doubtless_lead,
    inside_third,
    maybe_lies,
    place_of,
    surely_lies,
)
from workers.composing.language import Language, NounPhrase
from workers.composing.posterior import Posterior, is_object

# A rival that is as good as sure leaves a little: the logarithm of 0 is none.
MAX_RIVAL: Final = 0.999
# What more likely than not is of a row is counted as one of it.
IS_MEMBER: Final = 0.5

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The N masks of an image, numbered in their order: what each is believed to be, and where it lies."""

    posterior: Posterior
    places: Sequence[Place]
    language: Language
    config: ComposingConfig

    @property
    def weights(self) -> PosteriorConfig:
        """The settings of the posterior."""
        return self.posterior.config

    @cached_property
    def margins(self) -> Margins:
        """What is too close to call."""
        return Margins(self.config.min_gap, self.config.max_slant)

    @cached_property
    def phrases(self) -> Sequence[Sequence[NounPhrase]]:
        """By mask, the phrases of its likeliest noun that are likely enough to be said of it, in one order of words."""
        return [self._phrases(mask) for mask in range(len(self.places))]

    @cached_property
    def anchors(self) -> Mapping[int, tuple[NounPhrase, float]]:
        """By mask, the phrase that most likely means it alone without a place, and the log of how likely that is."""
        found = {}
        for mask, phrases in enumerate(self.phrases):
            right = {phrase: self.log_right(mask, phrase, np.ones(len(self.places))) for phrase in phrases}
            best = max(right, key=lambda phrase: right[phrase], default=None)
            if best is not None and self.is_likely(right[best]):
                found[mask] = (best, right[best])
        return found

    @cached_property
    def lead(self) -> Mapping[Side, Floats]:
        """By side, how likely nobody doubts that mask n lies further there than mask m, (N, N)."""
        found = {}
        for side in SIDES:
            along = np.array([place.along(side) for place in self.places])
            found[side] = doubtless_lead(along[:, None] - along[None, :], self.margins)
        return found

    @cached_property
    def inside(self) -> Mapping[Side, Floats]:
        """By side, how likely a mask is said to lie in that third of the picture, (N,)."""
        return {side: np.array([inside_third(side, each, self.margins) for each in self.places]) for side in SIDES}

    @cached_property
    def beside(self) -> Mapping[int, Mapping[Side, tuple[Flags, Floats]]]:
        """By anchor and side, which masks surely lie there, (N,) bool, and which may, (N,) 0 or 1; not the anchor."""
        return {anchor: {side: self._beside(anchor, side) for side in SIDES} for anchor in self.anchors}

    def _beside(self, anchor: int, side: Side) -> tuple[Flags, Floats]:
        there = self.places[anchor]
        surely = np.array([surely_lies(side, each, there, self.margins) for each in self.places], np.bool_)
        maybe = np.array([maybe_lies(side, each, there, self.margins) for each in self.places], np.float64)
        # Nothing lies beside itself.
        surely[anchor], maybe[anchor] = False, 0.0
        return surely, maybe

    def is_likely(self, log_right: float) -> bool:
        """Return whether what is so likely may be the first that is said of a mask."""
        return math.exp(log_right) > self.weights.min_first

    def rivals(self, phrase: NounPhrase) -> Floats:
        """Return how likely each mask is an object that a phrase is true of, (N,) float64, below 1."""
        return np.minimum(self.posterior.is_object * self.posterior.fits(phrase), MAX_RIVAL)

    def members(self, phrase: NounPhrase, mask: int) -> Ints:
        """Return the other masks, by number, that a phrase more likely than not is true of."""
        found = np.flatnonzero(self.rivals(phrase) > IS_MEMBER)
        return np.asarray(found[found != mask], np.int64)

    def log_right(self, mask: int, phrase: NounPhrase, is_rival: Floats) -> float:
        """Return the log of how likely a phrase means a mask alone.

        Args:
            mask: Its number.
            phrase: Of it.
            is_rival: (N,) float64, how likely a place that is said with the phrase does not tell a mask apart.
        """
        rivals = self.rivals(phrase)
        against = rivals * is_rival
        against[mask] = 0.0
        return float(np.log(rivals[mask]) + np.log1p(-against).sum()) + self.log_unseen(phrase)

    def log_counted(self, mask: int, phrase: NounPhrase, row: Ints, is_placed: Floats) -> float:
        """Return the log of how likely a mask and those of `row` are all that a phrase is true of.

        Args:
            mask: Its number.
            phrase: Of it.
            row: The other members, (R,).
            is_placed: (R,) float64, how likely each lies as it is said to.
        """
        is_rival = np.ones(len(self.places))
        is_rival[row] = 0.0
        members = np.log(self.rivals(phrase)[row]) + np.log(np.maximum(is_placed, 1.0 - MAX_RIVAL))
        return self.log_right(mask, phrase, is_rival) + float(members.sum()) + self.log_unseen(phrase, len(row))

    def log_unseen(self, phrase: NounPhrase, presupposed: int = 1) -> float:
        """Return the log of how likely a phrase is true of nothing that has no mask or another name."""
        return -self.weights.unseen * self.weights.unseen_word ** len(phrase.words) * presupposed

    def _phrases(self, mask: int) -> list[NounPhrase]:
        noun = self.posterior.noun(mask)
        if noun is None:
            return []
        alone = self.language.noun_phrase(noun, noun)
        drawn = [each for each in self.posterior.evidence[mask].phrases if each.noun == noun]
        longer = [each for each in drawn if 0 < len(each.words) <= self.config.max_words]
        distinct: dict[frozenset[str], NounPhrase] = {}
        for phrase in (*([alone] if alone is not None else []), *longer):
            distinct.setdefault(phrase.words, phrase)
        # Nothing said with it is likelier than that it is true of its target.
        return [each for each in distinct.values() if self.is_likely(math.log(self.rivals(each)[mask]))]


def likelihood_of(
    masks: Sequence[MaskRecord],
    drawn: Mapping[str, Sequence[ExpressionRecord]],
    language: Language,
    config: ComposingConfig,
    weights: PosteriorConfig,
) -> Likelihood:
    """Return what the masks of an image are believed to be; `drawn` are the captioner's candidates by mask id.

    Raises:
        ValueError: Probabilities count, and nobody has listened.
    """
    evidence = [evidence_of(drawn.get(mask.mask_id, ()), weights.counts, language.noun_phrase) for mask in masks]
    posterior = Posterior(weights, evidence, is_object(masks, weights))
    return Likelihood(posterior, [place_of(mask) for mask in masks], language, config)
