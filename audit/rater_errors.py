"""How often raters err, from pairs that were judged twice, and an accuracy that is corrected for it.

The model: a rater gives a wrong answer to "right or not" with the same probability e, whatever the truth, and two
raters err independently. Then two of them differ with probability 2e(1 − e), and the share that is called right is
q = A(1 − e) + (1 − A)e, so A = (q − e) / (1 − 2e).

Source: W. J. Rogan, B. Gladen, "Estimating prevalence from the results of a screening test", American Journal of
Epidemiology 107 (1978). The interval is of quantiles of A over the distributions of q and of e, because the Wald
interval of that paper fails near 1; Z. Lang, J. Reiczigel, Preventive Veterinary Medicine 113 (2014), compare others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import optimize, special

from pseudoris.audit.intervals import LEVEL, Interval, RatioEstimate, effective_size
from pseudoris.schemas.keep_rule import Floats

# With fewer pairs the error rate is a guess.
LEAST_CHECKED: Final = 60
# From here on two raters agree little more than by chance, and no correction is possible.
MAX_ERROR: Final = 0.4
_ERRORS: Final[Floats] = np.linspace(0.0005, 0.4995, 500)
_NEGLIGIBLE: Final = 1e-7


@dataclass(frozen=True, slots=True)
class RaterChecks:
    """What was judged twice.

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

    share: Interval
    error: Interval


def error_interval(checks: RaterChecks, *, level: float = LEVEL) -> Interval:
    """Return the raters' error rate with its interval."""
    chances = checks.chances()
    low, middle, high = np.interp([(1 - level) / 2, 0.5, (1 + level) / 2], np.cumsum(chances), _ERRORS)
    return Interval(float(middle), float(low), float(high))


def corrected_share(found: RatioEstimate, checks: RaterChecks, *, level: float = LEVEL) -> CorrectedShare | None:
    """Return the share that would be right by raters without errors; None if too little was checked, or they err much.

    Args:
        found: The share that they call right.
        checks: At least `LEAST_CHECKED` of them.
        level: Of the interval.
    """
    error = error_interval(checks, level=level)
    if checks.num_twice < LEAST_CHECKED or not found.num or error.estimate is None or error.estimate > MAX_ERROR:
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
    middle = min(max((called - error.estimate) / (1 - 2 * error.estimate), 0.0), 1.0)
    return CorrectedShare(Interval(middle, low, high), error)


def _quantile(below: Callable[[float], float], chance: float) -> float:
    if below(0.0) >= chance:
        return 0.0
    return 1.0 if below(1.0) <= chance else float(optimize.brentq(lambda share: below(share) - chance, 0.0, 1.0))
