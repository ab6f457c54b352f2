"""The one rule by which a difference of two trained things becomes a verdict; every page of docs/records keeps it.

1. The interval counts trainings. It is t's: the variance of a mean of trainings is that of its seeds, plus that of the
   images that all of them are asked about. The degrees of freedom are Satterthwaite's.
2. Each side has at least `MIN_TRAININGS`. Fewer give a figure, never a verdict. Where both sides are answers of the
   same models, nothing is trained anew: the interval is over scenes, and the verdict is about these models.
3. The interval leaves out zero, and still does when an end moves by `MARGIN` of its width. A bootstrap over scenes has
   enough resamples if another seed moves its ends by less; of 2,000 it does, and where trainings count none is drawn.

Sources: Satterthwaite, "An approximate distribution of estimates of variance components" (1946). With n trainings a
bootstrap's variance is too small by (n - 1) / n, and its quantiles are the normal's where t's are due: Hesterberg,
"What teachers should know about the bootstrap" (2015), section 3. What trainings and images share is counted in both
parts, so the interval is a little too wide: Owen, "The pigeonhole bootstrap" (2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from pseudoris.schemas.estimate import Estimate

MIN_TRAININGS: Final = 5
MARGIN: Final = 0.05
_COVERED: Final = 0.95
Verdict = Literal["above", "below", "not told apart", "no verdict"]


def interval(value: float, sides: Sequence[Sequence[float]], image_variance: float, num_images: int) -> Estimate:
    """Return a difference or mean of trainings with its 95 % interval.

    Args:
        value: The difference, or the mean.
        sides: A figure of each training: the differences of trainings that are paired, or a list for each of the sides
            that are trained independently. A side of one training, or of none, counts no spread.
        image_variance: `variance_over_images`.
        num_images: That are asked.
    """
    parts = [(variance(side) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    parts.append((image_variance, num_images - 1))
    total = sum(part for part, _ in parts)
    if not total:
        return Estimate(value, value, value)
    freedom = total**2 / sum(part**2 / own for part, own in parts if part)
    half = float(student_t.ppf((1 + _COVERED) / 2, freedom)) * math.sqrt(total)
    return Estimate(value, value - half, value + half)


def variance_over_images(sums: npt.ArrayLike, counts: npt.ArrayLike) -> float:
    """Return the variance of a ratio of sums over images that are drawn anew, by linearisation: no resample is drawn.

    Args:
        sums: (I,), the numerator of each image, a mean over trainings; of a difference, that of both sides.
        counts: (I,), the denominator, the same for both sides.
    """
    over, under = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    residuals = over - over.sum() / under.sum() * under
    return float((residuals**2).sum() * len(over) / (len(over) - 1) / under.sum() ** 2)


def verdict(low: float | None, high: float | None, trainings: int | None) -> Verdict:
    """Return what an interval of a difference shows.

    Args:
        low: The lower end; None where nothing was counted.
        high: The upper end.
        trainings: Of the side that has fewer; None where both sides are answers of the same models.
    """
    if low is None or high is None or (trainings is not None and trainings < MIN_TRAININGS):
        return "no verdict"
    margin = MARGIN * (high - low)
    if low > margin:
        return "above"
    return "below" if high < -margin else "not told apart"
