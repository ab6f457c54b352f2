"""Intervals of shares and means, corrected for raters' errors. Called by `audit`, `cli/audit_report` and experiments.

A change needs the coverage of `python -m evidence.experiments.audits` again.

**Intervals** are exact ones on an effective number of verdicts. A Wald interval is never used: at 0.97 of 200 it is too
narrow, and where no error was seen it has no width.

Source: E. L. Korn, B. I. Graubard, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data", Survey Methodology 24 (1998): Clopper and Pearson's interval with the effective sample size
in place of the size. The same with F. Garwood's interval (Biometrika 28, 1936) for means of counts. Both leave room for
one more event than was seen; where verdicts have unequal weights, it is one of the heaviest weight, as in M. P. Fay,
E. J. Feuer, "Confidence intervals for directly standardized rates", Statistics in Medicine 16 (1997).

**Raters' errors.** The model: a rater gives a wrong answer to "right or not" with the same probability e, whatever the
truth, and two raters err independently. Then two of them differ with probability 2e(1 − e), and the share that is
called right is q = A(1 − e) + (1 − A)e, so A = (q − e) / (1 − 2e).

Source: W. J. Rogan, B. Gladen, "Estimating prevalence from the results of a screening test", American Journal of
Epidemiology 107 (1978). The interval is of quantiles of A over the distributions of q and of e, because the Wald
interval of that paper fails near 1; Z. Lang, J. Reiczigel, Preventive Veterinary Medicine 113 (2014), compare others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import optimize, special

from pseudoris.schemas.estimate import Estimate
from pseudoris.schemas.fitted import Floats

LEVEL: Final = 0.95
# Raters' errors are corrected if two raters judged at least this many pairs. From fewer, the error rate is a guess.
LEAST_CHECKED: Final = 60
# Errors are corrected up to this error rate. Above it, two raters agree little more often than by chance.
MAX_ERROR: Final = 0.4
_ERRORS: Final[Floats] = np.linspace(0.0005, 0.4995, 500)
_NEGLIGIBLE: Final = 1e-7


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """A Hájek ratio: a weighted sum over another, from primary units in strata.

    Attributes:
        value: The ratio; NaN without units.
        variance: Its variance, linearised, between primary units in strata.
        num: Verdicts that have a part in it.
        num_effective_at_most: Kish's size of these, by their weights alone.
        heaviest: The largest weight of a verdict, as a share of all.
        degrees: Primary units less strata.
    """

    value: float
    variance: float
    num: int
    num_effective_at_most: float
    heaviest: float
    degrees: int


def share_interval(found: RatioEstimate, *, level: float = LEVEL) -> Estimate:
    """Return the interval of a share; Clopper and Pearson's if all verdicts weigh the same and no design helps."""
    if not found.num:
        return Estimate(math.nan, 0.0, 1.0)
    share = min(max(found.value, 0.0), 1.0)
    size = effective_size(found, share * (1 - share))
    heavy = max(found.heaviest * size, 1.0)
    low, high = (_highest(part * size, size, heavy, (1 + level) / 2) for part in (1 - share, share))
    return Estimate(share, 1 - low, high)


def mean_interval(found: RatioEstimate) -> Estimate:
    """Return the interval of a mean of counts: Garwood's on an effective number of units."""
    if not found.num:
        return Estimate(math.nan, 0.0, math.inf)
    size, tail = effective_size(found, found.value), (1 - LEVEL) / 2
    count, heavy = found.value * size, max(found.heaviest * size, 1.0)
    low = float(special.gammaincinv(count, tail)) / size if count > 0 else 0.0
    more, scale = _with_one_more(count, heavy)
    return Estimate(found.value, low, float(special.gammaincinv(more * scale, 1 - tail)) / scale / size)


def _highest(successes: float, size: float, heavy: float, chance: float) -> float:
    """Return the upper limit of a share, if one more success could have the weight of `heavy` average ones."""
    failures = size - successes
    if failures <= 1e-9 * size:
        return 1.0
    more, scale = _with_one_more(successes, heavy)
    return float(special.betaincinv(more * scale, failures * scale, chance))


def _with_one_more(count: float, heavy: float) -> tuple[float, float]:
    """Return the count with one heavy event more, and the factor that gives their sum its variance: 1 for `heavy` 1."""
    return count + heavy, (count + heavy) / (count + heavy**2)


def effective_size(found: RatioEstimate, unit_variance: float) -> float:
    """Return the size of a simple random sample with the same variance, at most Kish's.

    The degrees of freedom lower it, because the variance is itself estimated. It has a bound because in strata without
    an error the estimated variance is 0, which says more than is known.
    """
    if not found.variance > 0 or not unit_variance > 0:
        return found.num_effective_at_most
    size = unit_variance / found.variance
    if found.degrees > 0:
        size *= (special.stdtrit(max(found.num - 1, 1), 0.975) / special.stdtrit(found.degrees, 0.975)) ** 2
    return float(min(size, found.num_effective_at_most))


def exact_share(successes: float, size: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Clopper and Pearson's limits; `successes` and `size` need not be whole."""
    tail = (1 - level) / 2
    low = float(special.betaincinv(successes, size - successes + 1, tail)) if successes > 0 else 0.0
    high = float(special.betaincinv(successes + 1, size - successes, 1 - tail)) if successes < size else 1.0
    return low, high


def ratio(
    over: np.ndarray, under: np.ndarray, *, weights: np.ndarray, strata: np.ndarray, units: np.ndarray
) -> RatioEstimate:
    """Return sum(w·over) / sum(w·under) over n rows, with its variance; all arrays are (n,).

    `over` is 1 for a pair that is right, `under` 1 for a pair of the domain, 0 for others: the domain's size is random,
    and its variance is in the estimate. `weights` are 1 over the inclusion probability, or a multiple. `units` are
    numbers of primary units; equal numbers in two `strata` are two units.
    """
    inside = under != 0
    total = float(weights @ under)
    if total <= 0:
        return RatioEstimate(float("nan"), float("nan"), 0, 0.0, 1.0, 0)
    value = float(weights @ over) / total
    _, unit, unit_stratum = _numbered(strata, units)
    residuals = np.bincount(unit, weights * (over - value * under) / total)
    size = np.bincount(unit_stratum).astype(np.float64)
    # A stratum with a single unit has no variance, so its squared residual is used, which is rather too large.
    centre = np.where(size > 1, np.bincount(unit_stratum, residuals) / size, 0.0)
    squares = np.bincount(unit_stratum, (residuals - centre[unit_stratum]) ** 2)
    variance = float((squares * np.where(size > 1, size / np.maximum(size - 1, 1), 1.0)).sum())
    used = np.abs(weights * under)[inside]
    kish = float(used.sum() ** 2 / (used**2).sum())
    within, _, within_stratum = _numbered(strata[inside], units[inside])
    degrees = len(within) - len(np.unique(within_stratum))
    return RatioEstimate(value, variance, int(inside.sum()), kish, float(used.max() / used.sum()), degrees)


def _numbered(strata: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the units, each row's place among them, and each unit's stratum, numbered from 0."""
    _, stratum = np.unique(strata, return_inverse=True)
    _, number = np.unique(units, return_inverse=True)
    keys = stratum.astype(np.int64) * (number.max(initial=0) + 1) + number
    known, place = np.unique(keys, return_inverse=True)
    return known, place, known // (number.max(initial=0) + 1)


@dataclass(frozen=True, slots=True)
class RaterChecks:
    """How often two raters judged the same pair.

    Attributes:
        num_twice: Comparisons of two raters on a pair, both of which could say.
        num_differ: Of these, where one says right and the other does not.
    """

    num_twice: int
    num_differ: int

    def chances(self) -> Floats:
        """Return the probability of each of the error rates on the grid, (E,) float64, sum 1."""
        differ = 2 * _ERRORS * (1 - _ERRORS)
        log = -0.5 * np.log(_ERRORS)
        log += self.num_differ * np.log(differ) + (self.num_twice - self.num_differ) * np.log1p(-differ)
        chance = np.exp(log - log.max())
        return np.asarray(chance / chance.sum())


@dataclass(frozen=True, slots=True)
class CorrectedShare:
    """A share, corrected, and the raters' error rate."""

    share: Estimate
    error: Estimate


def error_interval(checks: RaterChecks, *, level: float = LEVEL) -> Estimate:
    """Return the raters' error rate with its interval."""
    chances = checks.chances()
    low, middle, high = np.interp([(1 - level) / 2, 0.5, (1 + level) / 2], np.cumsum(chances), _ERRORS)
    return Estimate(float(middle), float(low), float(high))


def corrected_share(found: RatioEstimate, checks: RaterChecks, *, level: float = LEVEL) -> CorrectedShare | None:
    """Return the share that would be right by raters without errors, of the share that they call right.

    None if less than `LEAST_CHECKED` was checked, or they err much.
    """
    error = error_interval(checks, level=level)
    if checks.num_twice < LEAST_CHECKED or not found.num or error.value > MAX_ERROR:
        return None
    called = min(max(found.value, 0.0), 1.0)
    size = effective_size(found, called * (1 - called))
    chances = checks.chances()
    inside = chances > _NEGLIGIBLE
    errors, chances = _ERRORS[inside], chances[inside] / chances[inside].sum()

    def below(share: float) -> float:
        """Return the probability that the true share is at most `share`."""
        limits = errors + share * (1 - 2 * errors)
        return float(chances @ special.betainc(called * size + 0.5, (1 - called) * size + 0.5, limits))

    low, high = (_quantile(below, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    middle = min(max((called - error.value) / (1 - 2 * error.value), 0.0), 1.0)
    return CorrectedShare(Estimate(middle, low, high), error)


def _quantile(below: Callable[[float], float], chance: float) -> float:
    if below(0.0) >= chance:
        return 0.0
    return 1.0 if below(1.0) <= chance else float(optimize.brentq(lambda share: below(share) - chance, 0.0, 1.0))
