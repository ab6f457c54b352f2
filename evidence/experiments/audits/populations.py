"""Populations of an audit: images, masks, pairs with scores, which are kept, and which are right.

`simulated_audits` makes them of numbers, by a seed; `drawn_run` fills `PairPopulation` from annotated scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pseudoris.audit.draw_files import DRAWN
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.keep_rule import Flags, Ints

_KEPT_SHARE: Final = 0.3
_MASKS: Final = 4.0
_TEXTS: Final = 5.0
# Variances of what an image, a mask and a pair add to how likely a pair is right: pairs of an image are alike.
_IMAGE, _MASK, _PAIR = 0.25, 0.35, 0.4


@dataclass(frozen=True, eq=False)
class PairPopulation:
    """P pairs of M masks of I images.

    Attributes:
        image: (P,) number of the pair's image.
        mask: (P,) number of its mask.
        score: (P,) float64.
        is_kept: (P,) bool; of `make_population` the highest 30 % of scores.
        is_right: (P,) bool.
        num_masks: M.
        missed: (I,) int64, objects of the image that no mask has.
        kind: (P,) str; None if all are drawn.
    """

    image: Ints
    mask: Ints
    score: Floats
    is_kept: Flags
    is_right: Flags
    num_masks: int
    missed: Ints
    kind: npt.NDArray[np.str_] | None = None

    @property
    def kinds(self) -> npt.NDArray[np.str_]:
        """(P,) str, as an audit tells pairs apart."""
        return np.full(len(self.score), DRAWN) if self.kind is None else self.kind

    @property
    def accuracy(self) -> float:
        """Share of the kept pairs that are right."""
        return float(self.is_right[self.is_kept].mean())

    @property
    def num_kept_of_mask(self) -> Ints:
        """(P,) kept pairs of the pair's mask."""
        return np.bincount(self.mask[self.is_kept], minlength=self.num_masks)[self.mask]

    @property
    def mask_is_right(self) -> Flags:
        """(P,) bool: whether the pair's mask has a right kept pair."""
        return (np.bincount(self.mask[self.is_kept & self.is_right], minlength=self.num_masks) > 0)[self.mask]


@dataclass(frozen=True)
class PopulationKind:
    """How a population is made.

    Attributes:
        title: In words, for the table.
        num_images: I.
        information: Weight of the likelihood to be right in the score, against noise of variance 1.
        error_share: Errors fall at random among this share of the kept pairs, those with the lowest scores; None puts
            them where pairs are least likely to be right.
    """

    title: str
    num_images: int = 1_200
    information: float = 1.0
    error_share: float | None = None


POPULATIONS: Final = {
    "informative": PopulationKind("scores tell right from wrong"),
    "weak": PopulationKind("scores tell little", information=0.3),
    "clean strata": PopulationKind("errors only in the lowest 3 of 8 strata", error_share=0.375),
    "few images": PopulationKind("60 images, several pairs of each", num_images=60),
}


def make_population(kind: PopulationKind, accuracy: float, seed: int) -> PairPopulation:
    """Return a population with this accuracy of its kept pairs, to one pair."""
    rng = np.random.default_rng(seed)
    masks_of = 1 + rng.poisson(_MASKS - 1, kind.num_images)
    image_of_mask = np.repeat(np.arange(kind.num_images), masks_of)
    mask = np.repeat(np.arange(len(image_of_mask)), 1 + rng.poisson(_TEXTS - 1, len(image_of_mask)))
    image = image_of_mask[mask]
    likely = _normal(rng, _IMAGE, kind.num_images)[image] + _normal(rng, _MASK, len(image_of_mask))[mask]
    likely += _normal(rng, _PAIR, len(mask))
    score = kind.information * likely + rng.normal(size=len(mask))
    is_kept = score > np.quantile(score, 1 - _KEPT_SHARE)
    if kind.error_share is None:
        ordered = np.sort(likely[is_kept])
        is_right = np.asarray(likely >= ordered[round((1 - accuracy) * len(ordered))])
    else:
        kept = np.flatnonzero(is_kept)
        kept = kept[np.argsort(score[kept])]
        is_right = likely > 0
        is_right[kept] = True
        lowest = kept[: round(kind.error_share * len(kept))]
        is_right[rng.permutation(lowest)[: round((1 - accuracy) * len(kept))]] = False
    # More varied than Poisson: some images are crowded.
    missed = rng.poisson(0.15 * masks_of * rng.gamma(1.0, 1.0, kind.num_images))
    return PairPopulation(image, mask, score, is_kept, is_right, len(image_of_mask), missed)


def _normal(rng: np.random.Generator, variance: float, size: int) -> Floats:
    return rng.normal(0.0, np.sqrt(variance), size)
