"""Strata of pairs, how many of each are drawn, and the draw itself, with known probabilities.

The design, and why:

- **Strata are bins of the pairs' own scores, kept and not kept apart.** Scores tell where errors are, so bins differ in
  accuracy, and an interval gets narrower. Pairs that the run does not keep have strata as well, so that the audit can
  answer for other rules of what is kept.
- **In a stratum, images are drawn, then pairs of the image.** Images are drawn with a probability proportional to the
  number of their pairs in the stratum, without replacement, systematically in a random order; of a drawn image one pair
  is drawn at random. An image that would be drawn more than once gives that many of its pairs. So every pair of a
  stratum has the same probability, and an image with many pairs does not decide the outcome.
- Strata are drawn independently. An image may be drawn in two of them; that makes no interval too narrow, because they
  speak about different pairs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pseudoris.schemas.keep_rule import Flags, Floats

Ints = npt.NDArray[np.int64]

# The name of those that no score decides about, and so no rule.
WITHOUT_SCORE: Final = "without a score"
# Of a stratum: below it its variance cannot be estimated; ten tell it well enough.
LEAST_DRAWN: Final = 2
_DRAWN_PER_BIN: Final = 10
_MAX_BINS: Final = 8


@dataclass(frozen=True, eq=False)
class PairStratum:
    """A stratum: its pairs, (M,) int64, and how many of them are drawn."""

    name: str
    is_kept: bool
    pairs: Ints
    num_drawn: int


@dataclass(frozen=True, eq=False)
class DrawnPairs:
    """D pairs drawn from one stratum, in random order.

    Attributes:
        pairs: (D,) int64, each once.
        first_stage: (D,) float64, the probability of the pair's image in this stratum.
        second_stage: (D,) float64, of the pair if its image is drawn.
    """

    pairs: Ints
    first_stage: Floats
    second_stage: Floats


def make_strata(
    *, score: Floats, is_kept: Flags, is_lone: Flags, num_drawn: int, unkept_share: float
) -> list[PairStratum]:
    """Return the strata of P pairs; together `num_drawn` are drawn of them, or all pairs if there are fewer.

    Args:
        score: (P,) NaN where a pair has none.
        is_kept: (P,)
        is_lone: (P,) of masks alone in their image; they have strata of their own.
        num_drawn: Pairs to draw.
        unkept_share: Share of the draws that goes to pairs that the run does not keep.
    """
    kept, unkept = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    for_unkept = min(round(num_drawn * unkept_share), len(unkept))
    for_kept = min(num_drawn - for_unkept, len(kept))
    for_unkept = min(num_drawn - for_kept, len(unkept))
    strata: list[PairStratum] = []
    for word, pairs, number in (("kept", kept, for_kept), ("not kept", unkept, for_unkept)):
        groups = _groups(pairs, score=score, is_lone=is_lone)
        for (name, members), share in zip(groups, allocate([len(m) for _, m in groups], number), strict=True):
            bins = _bins(members, score, share) if name == "score" else [(name, members)]
            counts = allocate([len(each) for _, each in bins], share)
            strata += [
                PairStratum(f"{word}, {label}", word == "kept", each, count)
                for (label, each), count in zip(bins, counts, strict=True)
            ]
    return strata


def _groups(pairs: Ints, *, score: Floats, is_lone: Flags) -> list[tuple[str, Ints]]:
    has_score = ~np.isnan(score[pairs])
    parts = {
        "score": has_score & ~is_lone[pairs],
        "mask alone in its image": is_lone[pairs],
        WITHOUT_SCORE: ~has_score & ~is_lone[pairs],
    }
    return [(name, pairs[chosen]) for name, chosen in parts.items() if chosen.any()]


def _bins(pairs: Ints, score: Floats, num_drawn: int) -> list[tuple[str, Ints]]:
    """Cut pairs into bins of equal size by their score, ascending; equal scores may fall into two bins."""
    number = max(1, min(_MAX_BINS, num_drawn // _DRAWN_PER_BIN))
    ordered = pairs[np.argsort(score[pairs], kind="stable")]
    return [
        (f"score {score[each[0]]:.2f} to {score[each[-1]]:.2f}", each)
        for each in np.array_split(ordered, number)
        if len(each)
    ]


def allocate(sizes: Sequence[int], number: int, *, least: int = LEAST_DRAWN) -> list[int]:
    """Return how many are drawn of each stratum: proportional to its size, `least` of each if the number allows it.

    The sum is `number`, or that of all sizes if it is smaller; no stratum gives more than it has.
    """
    sizes = list(sizes)
    number = min(number, sum(sizes))
    floor = least if sum(min(size, least) for size in sizes) <= number else 0
    counts = [min(size, floor) for size in sizes]
    wanted = [number * size / max(sum(sizes), 1) for size in sizes]
    while sum(counts) < number:
        # The stratum that lacks most of what is proportional to its size.
        lacking = [
            want - count if count < size else -np.inf for want, count, size in zip(wanted, counts, sizes, strict=True)
        ]
        counts[int(np.argmax(lacking))] += 1
    return counts


def draw_pairs(pairs: Ints, images: Ints, number: int, rng: np.random.Generator) -> DrawnPairs:
    """Draw `number` of a stratum's pairs: images first, then pairs in the image.

    Args:
        pairs: (M,) the stratum's pairs.
        images: (M,) the image of each of them.
        number: At most M.
        rng: Draws are a function of its state.
    """
    size = len(pairs)
    _, place, counts = np.unique(images, return_inverse=True, return_counts=True)
    # Images in a random order, pairs in a random order in their image: a step that is longer than an image's pairs
    # takes one pair of it at most.
    order = np.lexsort((rng.random(size), rng.random(len(counts))[place]))
    step = size / max(number, 1)
    taken = order[np.minimum((rng.random() * step + step * np.arange(number)).astype(np.int64), size - 1)]
    taken = rng.permutation(taken)
    inclusion = number / size
    first = np.minimum(1.0, inclusion * counts[place[taken]])
    return DrawnPairs(pairs[taken], first, inclusion / first)
