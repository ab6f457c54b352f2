"""The probability that a composed expression is right: true of its target t, and of no other mask k at its position.

    P(right)  =  P(object | t) · P(phrase | t) · P(position | t)
                 · Π (1 − P(object | k) · P(phrase | k) · P(same position | k))     over the other masks k
                 · exp(−(unseen + hidden) · 0.3 ^ words)

"The left of the three" and "the second from the left" presuppose the other members of a row. For each member, (1 − …)
is replaced by the probability that it is a member, and the last factor (objects without a mask or with a wrong noun) is
applied once more.

`composer` calls it. Positions of masks are shares of the image's sides. Tests of them that return a bool must keep a
margin: they are true only if no viewer would doubt them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Final

import numpy as np

from pseudoris.primitives.noun_phrases import (
    NounPhrase,
    PhraseReader,
    is_sayable,
    noun_phrase,
    phrases_by_rules,
    shorter,
)
from pseudoris.primitives.place_phrases import Side
from pseudoris.primitives.run_lengths import decode_runs
from pseudoris.schemas.fitted import Floats, PosteriorConfig
from pseudoris.schemas.keep_rule import Flags, Ints
from pseudoris.schemas.shard import MaskRecord, ShardImage
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.kind_posterior import KindPosterior, full_name, kinds_of_several, of_mask_alone
from pseudoris.workers.composing.posterior import Posterior, by_names, drawn_by_mask, evidence_of, is_object, weights_of
from pseudoris.workers.composing.shown_colours import ShownColours

SIDES: Final[tuple[Side, ...]] = ("left", "right", "top", "bottom")
# A side of the picture is this share of its width or height.
_THIRD: Final = 1 / 3
# The log of how many times larger a thing in front is, where size leaves no doubt.
_LARGER: Final = 0.5
# What is this far from a side may still be called "on the left".
_HALF: Final = 1 / 2
# Two centres closer than this share of the image's width or height have no order: neither is further left.
_MIN_GAP: Final = 0.08
# The sideways offset may be at most this multiple of the distance toward the named side. 1 would allow 45 degrees.
_MAX_SLANT: Final = 0.8
# A lenient viewer accepts a sideways offset of at most this multiple of the distance toward the named side.
_LENIENT_SLANT: Final = 2.0


@dataclass(frozen=True, slots=True)
class MaskPosition:
    """The centre of a mask's pixels: x and y as shares of the image's width and height, and the image's height / width.

    Shares along each axis say where in the picture something is; `aspect` makes the two axes comparable.
    """

    x: float
    y: float
    aspect: float = 1.0
    bottom: float = 1.0  # the lower edge of its box, as a share of the image's height
    area: float = 0.0  # as a share of the image's
    box: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)  # x0, y0, x1, y1 as x and y; by default empty

    def along(self, side: Side) -> float:
        """Return how far it is toward a side, as a share of that axis: larger is further."""
        return {"left": -self.x, "right": self.x, "top": -self.y, "bottom": self.y}[side]

    def has_inside(self, other: MaskPosition) -> bool:
        """Return whether the centre of another mask is in this one's box."""
        x0, y0, x1, y1 = self.box
        return x0 < other.x < x1 and y0 < other.y < y1

    def step(self, side: Side, anchor: MaskPosition) -> tuple[float, float]:
        """Return the way from an anchor: toward the side, and across (never negative), both in image widths."""
        dx, dy = self.x - anchor.x, (self.y - anchor.y) * self.aspect
        toward = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}[side]
        return toward, abs(dy if side in ("left", "right") else dx)


def position_of(mask: MaskRecord) -> MaskPosition:
    """Return the position of a mask's pixels."""
    height, width = mask.rle_size
    # `ends` are the ends of runs, in pixels counted column by column. Every second run belongs to the mask.
    ends = np.cumsum(decode_runs(mask.rle_counts))
    # `columns` and `rows` are the sums of the column and row numbers of all pixels before each end.
    column, row = np.divmod(ends, height)
    columns = height * (column * (column - 1) // 2) + column * row
    rows = column * (height * (height - 1) // 2) + row * (row - 1) // 2
    num_runs = len(ends) // 2
    signs = np.tile([-1, 1], num_runs)
    x, y = (float((sums[: 2 * num_runs] * signs).sum()) / mask.area_px + 0.5 for sums in (columns, rows))
    x0, y0, x1, y1 = (float(each) for each in mask.box_xyxy_px)
    box = (x0 / width, y0 / height, x1 / width, y1 / height)
    return MaskPosition(x / width, y / height, height / width, box[3], mask.area_px / (height * width), box)


def surely_lies(side: Side, item: MaskPosition, anchor: MaskPosition) -> bool:
    """Return whether a mask is surely on a side of another one."""
    toward, across = item.step(side, anchor)
    return toward >= _MIN_GAP and across <= _MAX_SLANT * toward


def maybe_lies(side: Side, item: MaskPosition, anchor: MaskPosition) -> bool:
    """Return whether some viewer may say that a mask is on a side of another one."""
    toward, across = item.step(side, anchor)
    # Half of `_MIN_GAP` is forgiven, because a mask's centre may differ from its object's.
    slack = _MIN_GAP / 2
    return toward > -slack and across <= _LENIENT_SLANT * (toward + slack) + slack


def is_nearer(item: MaskPosition, other: MaskPosition) -> float:
    """Return the probability that of two things on the ground one is beyond doubt in front: lower, and larger."""
    lower = float(doubtless_lead(np.float64(item.bottom - other.bottom)))
    return lower * float(_ramp(np.log(np.float64(item.area / max(other.area, 1e-9))) - _LARGER, 0.15 * _LARGER))


def doubtless_lead(leads: Floats | np.float64) -> Floats:
    """Return the probability that a lead is beyond doubt; `leads` are shares of the axis. 0.5 at 0.75 of `_MIN_GAP`."""
    return _ramp(leads - 0.75 * _MIN_GAP, 0.15 * _MIN_GAP)


def inside_share(side: Side, position: MaskPosition, share: float = _THIRD) -> float:
    """Return the probability that a viewer places a mask in a share of the image on a side; 0.5 on its border."""
    along = position.along(side)
    depth = 1 - along if side in ("right", "bottom") else -along
    return float(_ramp(np.float64(share - depth), 0.125 * _MIN_GAP))


def _ramp(distance: Floats | np.float64, width: float) -> Floats:
    """Rises from 0 far below 0 to 1 far above, within a few widths."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(distance / width, -500.0, 500.0))))


# A phrase has at most this many words besides its noun. Each word excludes more other masks, and may itself be wrong.
_MAX_WORDS: Final = 2
# A rival's probability is at most this. At 1, the logarithm of the probability of no rival would be -infinity.
MAX_RIVAL: Final = 0.999
# A mask counts as a member of a row, or as at a side of the picture, above this probability.
IS_MEMBER: Final = 0.5
# The risk that a phrase means something unseen is multiplied by this for each word besides the noun. Set by hand.
_UNSEEN_WORD: Final = 0.3


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The N masks of an image, numbered in order: the posterior and the position of each."""

    posterior: Posterior
    positions: Sequence[MaskPosition]
    config: ComposingConfig

    @cached_property
    def phrases(self) -> Sequence[Sequence[NounPhrase]]:
        """By mask, the likely phrases with its likeliest noun; one phrase for each set of words."""
        found: list[Sequence[NounPhrase]] = []
        for mask in range(len(self.positions)):
            distinct: dict[tuple[str, frozenset[str]], NounPhrase] = {}
            for name in self.posterior.names(mask):
                alone = noun_phrase(name, name)
                drawn = self.posterior.phrases(mask, name)
                longer = [each for each in drawn if 0 < len(each.words) <= _MAX_WORDS and is_sayable(each)]
                if not longer:
                    # The captioner drew no phrase of so few words that can be said, so longer ones are shortened.
                    longer = [part for each in drawn for part in shorter(each, _MAX_WORDS) if is_sayable(part)]
                for phrase in (*([] if alone is None or alone.number == "several" else [alone]), *longer):
                    distinct.setdefault((phrase.noun, frozenset(map(self.posterior.named, phrase.words))), phrase)
            # Unlikely phrases are left out: an expression is never likelier than that its phrase is true of the mask.
            found.append([each for each in distinct.values() if self.is_likely(math.log(self.rivals(each)[mask]))])
        return found

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
        along = {side: np.array([each.along(side) for each in self.positions]) for side in SIDES}
        return {side: doubtless_lead(np.subtract.outer(each, each)) for side, each in along.items()}

    @cached_property
    def inside(self) -> Mapping[Side, Floats]:
        """By side, the probability that a viewer places a mask in that third of the image, (N,)."""
        return {side: np.array([inside_share(side, each) for each in self.positions]) for side in SIDES}

    @cached_property
    def maybe_inside(self) -> Mapping[Side, Floats]:
        """By side, the probability that a mask is a rival of what is in that third, (N,)."""
        if self.config.places == "drawings":
            return self.inside
        return {side: np.array([inside_share(side, each, _HALF) for each in self.positions]) for side in SIDES}

    @cached_property
    def nearer(self) -> Floats:
        """The probability that mask n is beyond doubt in front of mask m, if both stand on the ground, (N, N)."""
        return np.array([[is_nearer(each, other) for other in self.positions] for each in self.positions])

    @cached_property
    def beside(self) -> Mapping[int, Mapping[Side, tuple[Flags, Floats]]]:
        """By anchor and side, which other masks are surely there, (N,) bool, and which may be, (N,) 0 or 1."""
        found: dict[int, dict[Side, tuple[Flags, Floats]]] = {anchor: {} for anchor in self.anchors}
        for anchor, side in product(found, SIDES):
            there = self.positions[anchor]
            surely = np.array([surely_lies(side, each, there) for each in self.positions], np.bool_)
            maybe = np.array([maybe_lies(side, each, there) for each in self.positions], np.float64)
            surely[anchor], maybe[anchor] = False, 0.0
            found[anchor][side] = surely, maybe
        return found

    def is_likely(self, log_right: float) -> bool:
        """Return whether an expression is likely enough to be a mask's first expression."""
        return math.exp(log_right) > self.config.min_first

    @cached_property
    def rivals(self) -> Callable[[NounPhrase], Floats]:
        """By phrase, the probability that each mask is an object that it is true of, (N,) float64, below 1."""
        posterior = self.posterior
        return cache(lambda phrase: np.minimum(posterior.is_object * posterior.fits(phrase), MAX_RIVAL))

    @cached_property
    def blurred(self) -> Callable[[NounPhrase], Floats]:
        """By phrase, the probability that it may fit each mask, (N,) float64, below 1: as a rival of another one."""
        return cache(lambda phrase: np.minimum(self.posterior.may_be(phrase, self.rivals), MAX_RIVAL))

    def members(self, phrase: NounPhrase, mask: int) -> Ints:
        """Return the numbers of the other masks that a phrase is probably true of."""
        found = np.flatnonzero(self.rivals(phrase) > IS_MEMBER)
        return np.asarray(found[found != mask], np.int64)

    def needs_all_words(self, mask: int, phrase: NounPhrase) -> bool:
        """Return whether for each word of a phrase some rival of a mask lacks it; True without rivals."""
        found = self.rivals(phrase)
        for fewer in (
            shorter(phrase, len(phrase.words) - 1) if len(phrase.words) > 1 else [replace(phrase, before=(), after=())]
        ):
            others = self.members(fewer, mask)
            if len(fewer.words) == len(phrase.words) - 1 and len(others) and (found[others] > IS_MEMBER).all():
                return False
        return True

    def log_right(self, mask: int, phrase: NounPhrase, is_rival: Floats) -> float:
        """Return the log of the probability that a phrase refers to one mask alone.

        `is_rival` (N,) float64 is the probability that the stated position fits each mask as well.
        """
        rivals = self.rivals(phrase)
        against = self.blurred(phrase) * is_rival
        against[mask] = 0.0
        return float(np.log(rivals[mask]) + np.log1p(-against).sum()) + self.log_unseen(phrase)

    def log_counted(self, mask: int, phrase: NounPhrase, row: Ints, is_placed: Floats) -> float:
        """Return the log of the probability that a phrase is true of a mask, of those in `row` (R,), and of no other.

        `is_placed` (R,) float64 is the probability that each of the row is where the expression says.
        """
        is_rival = np.ones(len(self.positions))
        is_rival[row] = 0.0
        members = np.log(self.rivals(phrase)[row]) + np.log(np.maximum(is_placed, 1.0 - MAX_RIVAL))
        return self.log_right(mask, phrase, is_rival) + float(members.sum()) + self.log_unseen(phrase, len(row))

    def log_unseen(self, phrase: NounPhrase, presupposed: int = 1) -> float:
        """Return the log of the probability that a phrase fits no object without a mask or with a wrong noun."""
        unseen = self.posterior.config.unseen + self.posterior.hidden(phrase.noun)
        return -unseen * _UNSEEN_WORD ** len(phrase.words) * presupposed


def likelihood_of(
    image: ShardImage, config: ComposingConfig, weights: PosteriorConfig, read: PhraseReader = phrases_by_rules
) -> Likelihood:
    """Return the likelihood of an image after the filter stage; expressions of other sources are ignored.

    Raises:
        ValueError: `counts` is "probability", and a candidate has no caption score.
    """
    by_mask = drawn_by_mask(image)
    drawn = [by_mask.get(mask.mask_id, ()) for mask in image.masks]
    if weights.has_kinds:
        drawn = [[replace(each, head_noun=full_name(each.text, each.head_noun)) for each in said] for said in drawn]
    evidence = [evidence_of(each, weights.counts, read) for each in drawn]
    if weights.has_kinds:
        of_each = zip(evidence, drawn, strict=True)
        evidence = [of_mask_alone(each, said, weights_of(said, weights.counts)) for each, said in of_each]
    if weights.names is not None:
        evidence = [by_names(each, weights.names) for each in evidence]
    are_objects = is_object(image.masks, weights, evidence)
    shown = ShownColours([mask.colours for mask in image.masks] if config.has_colours else ())
    if weights.has_kinds:
        several, small = list(map(kinds_of_several, drawn)), (config.has_too_small and image.num_too_small) or 0
        whole = image.whole_picture
        posterior: Posterior = KindPosterior(weights, evidence, are_objects, several, whole, small, shown=shown)
    else:
        posterior = Posterior(weights, evidence, are_objects, shown=shown)
    return Likelihood(posterior, [position_of(mask) for mask in image.masks], config)
