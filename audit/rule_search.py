"""The loosest keep rule of a sequence whose accuracy is shown to reach a target.

Rules are tested one after another, from strict to loose; the first one that is not shown to reach the target ends the
search, and the one before it is chosen. Each test may err with 5 %, and a wrong choice needs the first rule that
misses the target to pass its own: so the chosen rule misses it with 5 % at most, however many rules are tried. Picking
the best of all rules would flatter it.

Source: P. H. Westfall, A. Krishen, "Optimally weighted, fixed sequence and gatekeeper multiple testing procedures",
Journal of Statistical Planning and Inference 99 (2001); the order of rules must not depend on a verdict.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pseudoris.audit.intervals import RatioEstimate, exact_share, share_interval
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.audit.rater_errors import RaterChecks, corrected_share
from pseudoris.schemas.keep_rule import Flags

# Of a test: a two-sided interval of 90 % has a lower limit that the truth is below with 5 %.
_LEVEL: Final = 0.9
_LEVEL_ONE_SIDED: Final = (1 + _LEVEL) / 2
# The sequence starts where so many wrong verdicts may still pass: the very strictest rules have too few verdicts to
# show anything, and the first failure ends the search.
_START_ERRORS: Final = 2
_MAX_VERDICTS: Final = 10_000
_NUM_TRIED: Final = 300


@dataclass(frozen=True, slots=True)
class TestedRule:
    """A rule of the sequence.

    Attributes:
        name: `confidence > 0.62`.
        num: Verdicts on pairs that it keeps.
        estimate: Their accuracy; corrected for raters' errors if that is known.
        low: Lower limit of a one-sided interval of 95 %.
        passes: Whether that reaches the target.
    """

    # pytest would take the class for a test.
    __test__ = False

    name: str
    num: int
    estimate: float
    low: float
    passes: bool


@dataclass(frozen=True, slots=True)
class RuleChoice:
    """What the search found.

    Attributes:
        target: The accuracy to reach.
        tested: The rules in the order of their tests, up to the first that fails.
        chosen: Place of the chosen rule among those given; None if none was shown to reach the target.
        more: Verdicts that would tell, over all of the audit, if the accuracies are as they look; None if no number
            would, or a rule was chosen.
        least: Verdicts on what a rule keeps that could show the target, if all of them were right.
    """

    target: float
    tested: tuple[TestedRule, ...]
    chosen: int | None
    more: int | None
    least: int


def choose_rule(
    judged: JudgedPairs, keeps: Sequence[Flags], names: Sequence[str], *, target: float, checks: RaterChecks
) -> RuleChoice:
    """Return the loosest rule that is shown to reach `target`.

    Args:
        judged: The verdicts; (R,) rows.
        keeps: What each rule keeps of them, (R,) bool, from strict to loose. No verdict had a part in their order.
        names: Of the rules.
        target: The accuracy, below 1.
        checks: Of the raters; enough of them, and accuracies are corrected.
    """
    start = first_rule([_size(judged, flags) for flags in keeps], target)
    tested: list[TestedRule] = []
    chosen = None
    for place in range(start, len(keeps)):
        tested.append(_test(names[place], _estimate(judged, keeps[place]), target, checks))
        if not tested[-1].passes:
            break
        chosen = place
    more = None if chosen is not None else _more(judged, keeps, target, checks)
    return RuleChoice(target, tuple(tested), chosen, more, math.ceil(math.log(1 - _LEVEL_ONE_SIDED) / math.log(target)))


def first_rule(sizes: Sequence[float], target: float) -> int:
    """Return the place of the first rule with verdicts enough to pass with `_START_ERRORS` wrong ones, or with fewer.

    Args:
        sizes: Effective numbers of verdicts of the rules, from strict to loose.
        target: The accuracy.
    """
    for errors in range(_START_ERRORS, -1, -1):
        least = _least_size(target, errors)
        found = [place for place, size in enumerate(sizes) if size >= least]
        if found:
            return found[0]
    return max(len(sizes) - 1, 0)


@functools.cache
def _least_size(target: float, errors: int) -> int:
    size = errors + 1
    while exact_share(size - errors, size, level=_LEVEL)[0] < target and size < _MAX_VERDICTS:
        size += 1
    return size


def _size(judged: JudgedPairs, keeps: Flags) -> float:
    """Return Kish's effective number of verdicts on what a rule keeps; it depends on no verdict."""
    weights = judged.weights[keeps]
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0


def _estimate(judged: JudgedPairs, keeps: Flags) -> RatioEstimate:
    # What a rater cannot say counts as wrong: a target that is only reached without such pairs is not reached.
    return judged.share_right(keeps, judged.bounded(0.0))


def _test(name: str, found: RatioEstimate, target: float, checks: RaterChecks) -> TestedRule:
    corrected = corrected_share(found, checks, level=_LEVEL)
    share = share_interval(found, level=_LEVEL) if corrected is None else corrected.share
    return TestedRule(name, found.num, share.estimate or 0.0, share.low, share.low >= target)


def _more(judged: JudgedPairs, keeps: Sequence[Flags], target: float, checks: RaterChecks) -> int | None:
    """Return about how many further verdicts it takes until the first tested rule passes at its present accuracy.

    Its lower limit comes closer with the square root of their number. With more verdicts the sequence starts at a
    stricter rule.
    """
    total = int((judged.is_drawn & judged.is_judged).sum())
    tests = [_test("", _estimate(judged, flags), target, checks) for flags in keeps]
    sizes = [_size(judged, flags) for flags in keeps]
    for factor in map(float, np.geomspace(1, max(_MAX_VERDICTS / max(total, 1), 1), _NUM_TRIED)):
        first = tests[first_rule([size * factor for size in sizes], target)]
        if first.num and first.estimate - (first.estimate - first.low) / math.sqrt(factor) >= target:
            return max(math.ceil(total * (factor - 1)), 1)
    return None
