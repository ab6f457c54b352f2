"""Images whose candidates a truth has judged: what weights are fitted to, and bounds chosen by."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.confidence import Rated, features
from schemas.keeping import Flags, Floats
from training.evaluation.bootstrap import Sums

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Said:
    """Expressions of one mask each that are kept whatever the bounds are: what a composer says, or a person.

    Attributes:
        is_right: (K,) bool.
        targets: (K,) int64, the mask's object; -1 where that is none.
    """

    is_right: Flags
    targets: Ints


NOTHING = Said(np.zeros(0, np.bool_), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class JudgedImage:
    """One image's T candidates.

    Attributes:
        rated: As the filter stage has them; groups are mask ids.
        is_right: (T,) bool, refers to its mask's object and to nothing else.
        targets: (T,) int64, its mask's object; -1 where that is none.
        num_masks: Masks of the image.
        num_visible: Objects of the truth with a pixel.
        beside: What is kept in any case.
    """

    rated: Rated
    is_right: Flags
    targets: Ints
    num_masks: int
    num_visible: int
    beside: Said = field(default=NOTHING)

    @cached_property
    def features(self) -> dict[str, Floats]:
        """What weights are multiplied with, (T,) float64 by name; computed once for all that is tried."""
        return features(self.rated)

    def sums(self, keep: Flags) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage of what is kept, (T,) bool, and beside."""
        right = keep & self.is_right
        kept = float(keep.sum() + len(self.beside.is_right))
        covered = np.concatenate([self.targets[right], self.beside.targets[self.beside.is_right]])
        return {
            "accuracy": (float(right.sum() + self.beside.is_right.sum()), kept),
            "yield": (kept, self.num_masks),
            "coverage": (float(len(np.unique(covered))), self.num_visible),
        }
