"""Finds the loosest keep rule that an audit shows to reach an accuracy. For `cli/audit_report` and experiments.

Drawn expressions, composed ones of one mask, and groups with absences get a bound each, found by a search of its own.
The rules for a bound are tested one after another, from strict to loose. The first one that is not shown to reach
the target ends the search, and the one before it is chosen. A wrong choice needs the first rule that misses the target
to pass its own test. The searches share the 5 % with which such a test may err; one with too few verdicts to pass has
no share. A search whose loosest rule passes has nothing left to test, and gives its share to the others, as Holm's
procedure does: so what all of them keep misses the target with 5 % at most, however many rules are tried. The order of
rules, and where it starts, depend on no verdict.

Sources: P. H. Westfall, A. Krishen, "Optimally weighted, fixed sequence and gatekeeper multiple testing procedures",
Journal of Statistical Planning and Inference 99 (2001). F. Bretz, W. Maurer, W. Brannath, M. Posch, "A graphical
approach to sequentially rejective multiple test procedures", Statistics in Medicine 28 (2009): each search is a path
whose last rule leads to the first open one of each other path; docs/records/decisions.md has the argument.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import DRAWN, STORED_SCORES
from pseudoris.audit.intervals import RaterChecks, corrected_share, exact_share, share_interval
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.keep_rule import (
    COMPOSED_KINDS,
    ONE_MASK,
    Flags,
    KeepCondition,
    KeepRule,
    ScoreColumn,
    meets,
)
from pseudoris.schemas.stage_settings import ComposedKind

# The candidate bounds are these quantiles of the drawn pairs' scores.
BOUND_QUANTILES: Final = np.linspace(0.95, 0.0, 20)
_DIGITS: Final = 3
# A two-sided interval of 90 % is a one-sided test at 5 %: the truth is below its lower limit with a chance of 5 %.
_LEVEL: Final = 0.9
# The sequence starts at a rule that passes with this many wrong verdicts. The strictest rules have too few verdicts to
# show anything, and the first failure ends the search.
START_ERRORS: Final = 2
# On composed runs with this many: a composer writes nothing below its bound, and above it errors are at the low end
# (measured on drawn scenes). A stricter start has fewer verdicts, and hardly more that is right.
COMPOSED_START_ERRORS: Final = 6
_MAX_VERDICTS: Final = 10_000
_NUM_TRIED: Final = 300
Rules = Sequence[tuple[str, Flags]]


@dataclass(frozen=True, eq=False)
class SequencedRule:
    """A rule of the sequence, named by its bound, such as `confidence > 0.62`; `keeps` of the audit's R pairs, (R,).

    `bounds` are the conditions that it has in place of the run's on the same columns.
    """

    name: str
    rule: KeepRule
    keeps: Flags
    bounds: tuple[KeepCondition, ...] = ()


def composed_groups(judged: JudgedPairs) -> list[tuple[ComposedKind, ...]]:
    """Return the kinds of composed expressions that share a bound: those of one mask, and those of several or none.

    Apart, because easy absences would hide errors of the texts of one mask. Kinds of which nothing is kept together
    have no search.
    """
    held, kept = ({*judged.kind[rows].tolist()} for rows in (judged.is_drawn, judged.is_drawn & judged.is_kept))
    parts = (tuple(kind for kind in COMPOSED_KINDS if (kind in ONE_MASK) == is_one) for is_one in (True, False))
    return [tuple(kind for kind in kinds if kind in held) for kinds in parts if kept.intersection(kinds)]


def composed_sequence(
    judged: JudgedPairs, confidence: Floats, rule: KeepRule, kinds: Sequence[ComposedKind]
) -> list[SequencedRule]:
    """Return rules with one bound on the (R,) confidence of some kinds, as `rule_sequence`; they keep nothing else."""
    is_meant = np.isin(judged.kind, kinds) & judged.is_kept
    found = []
    for value in _bounds(confidence[is_meant & judged.is_drawn]):
        bounds = tuple(KeepCondition(column=kind, comparison=">", bound=value) for kind in kinds)
        changed = replace(rule, conditions=with_bounds(rule.conditions, bounds))
        name = " and ".join(map(str, bounds))
        found.append(SequencedRule(name, changed, is_meant & ~(confidence <= value), bounds))
    return found


def with_bounds(conditions: Sequence[KeepCondition], bounds: Sequence[KeepCondition]) -> tuple[KeepCondition, ...]:
    """Return the conditions with `bounds` in place of those on the same columns."""
    columns = {each.column for each in bounds}
    return (*(each for each in conditions if each.column not in columns), *bounds)


def _bounds(known: Floats) -> list[float]:
    """Return bounds just below quantiles of scores, from strict to loose: the last keeps all above 0."""
    found = np.maximum((np.ceil(np.quantile(known, BOUND_QUANTILES) * 10**_DIGITS) - 1) / 10**_DIGITS, 0.0)
    return sorted(set(found.tolist()), reverse=True)


def rule_sequence(audit: AuditFolder, judged: JudgedPairs, rule: KeepRule) -> list[SequencedRule]:
    """Return rules that differ from `rule` in one bound, from strict to loose; no verdict has a part in them.

    The bound is on `confidence` if the run has one, else tau. What is composed is left out. Human expressions and drawn
    groups have no score, so the bound does not touch them.
    """
    if rule.tau is None:
        raise ConfigError("the run's scorer is another package's, whose tau is not known: give --tau or --keep instead")
    if rule.lone_masks == "better_half":
        raise ConfigError(
            "the run keeps the better half of a lone mask's captions, which a sample does not tell. Refilter with "
            "--lone-masks keep or drop first"
        )
    scores = {name: np.array(audit.pairs[name].to_pylist(), np.float64) for name in STORED_SCORES}
    is_single = np.array([len(masks) == 1 for masks in audit.pairs["mask_ids"].to_pylist()], np.bool_)
    is_scored = is_single & (judged.kind == DRAWN)
    column: ScoreColumn = "distinctiveness" if rule.confidence is None else "confidence"
    known = scores[column][is_scored & judged.is_drawn & ~np.isnan(scores[column])]
    if not len(known):
        raise ConfigError(f"no pair of the audit has a {column} to bound")
    distinctiveness, found = scores["distinctiveness"], []
    others = judged.is_kept & ~np.isin(judged.kind, COMPOSED_KINDS)
    for value in _bounds(known):
        bound = KeepCondition(column=column, comparison=">", bound=value)
        bounds = () if rule.confidence is None else (bound,)
        changed = replace(rule, conditions=with_bounds(rule.conditions, bounds))
        changed = changed if bounds else replace(changed, tau=value)
        passing = (distinctiveness > (changed.tau or 0.0)) | (np.isnan(distinctiveness) & (rule.lone_masks == "keep"))
        passing &= meets(changed.conditions, scores, len(passing))
        found.append(SequencedRule(str(bound), changed, np.where(is_scored, passing, others), bounds))
    return found


@dataclass(frozen=True, slots=True)
class TestedRule:
    """What the verdicts say of a rule.

    Attributes:
        num: Verdicts on pairs that it keeps.
        estimate: Their accuracy; corrected for raters' errors if that is known.
        low: Lower limit of the test's one-sided interval; the accuracy itself if all of the run was judged.
    """

    # Without this line pytest would collect the class as a test, because its name begins with `Test`.
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


def choose_rules(
    judged: JudgedPairs,
    searches: Sequence[Rules],
    *,
    target: float,
    checks: RaterChecks,
    start_errors: int = START_ERRORS,
) -> list[RuleChoice]:
    """Return of each search the loosest rule that is shown to reach `target`; searches share the chance to err.

    The rules of a search are the name of each and what it keeps of the R verdicts, (R,) bool, from strict to loose; no
    verdict had a part in their order. With enough `checks` accuracies are corrected. A search starts at a rule that
    passes with `start_errors` wrong verdicts.
    """
    even, open_ones = (1 - _LEVEL) / max(len(searches), 1), [*range(len(searches))]
    # With too few verdicts to pass at an even share a search cannot err, and the others have its share.
    least = _least_size(target, 0, 1 - even)
    able = [max(_size(judged, keeps) for _, keeps in rules) >= least for rules in searches]
    shares = [(1 - _LEVEL) / sum(able) if each else 0.0 for each in able]
    levels = [1 - (share or even) for share in shares]
    of_each = zip(searches, levels, strict=True)
    paths = [_Path(judged, rules, target, checks, start_errors, level) for rules, level in of_each]
    while passed := [each for each in open_ones if paths[each].passes_all(1 - (shares[each] or even))]:
        open_ones = [each for each in open_ones if each not in passed]
        for each in open_ones:
            shares[each] += sum(shares[done] for done in passed) / len(open_ones)
    return [path.choice() for path in paths]


class _Path:
    """The search for one bound; it goes on where it ended if its share of the chance to err grows."""

    def __init__(
        self, judged: JudgedPairs, rules: Rules, target: float, checks: RaterChecks, errors: int, level: float
    ) -> None:
        self._judged, self._rules, self._target, self._checks = judged, rules, target, checks
        self._sizes = [_size(judged, keeps) for _, keeps in rules]
        # By the level before any search has passed: else another search's verdicts would decide about the start.
        self._first, self._errors, self._level = first_rule(self._sizes, target, level, errors), errors, level
        self._tested: list[TestedRule] = []

    def passes_all(self, level: float) -> bool:
        """Return whether all rules pass at a level; those that passed at a stricter one are not tested again."""
        self._level, self._tested = level, [each for each in self._tested if each.passes]
        while (place := self._first + len(self._tested)) < len(self._rules):
            self._tested.append(self._test(place))
            if not self._tested[-1].passes:
                return False
        return True

    def choice(self) -> RuleChoice:
        """Return what was found."""
        judged, level, target = self._judged, self._level, self._target
        num_passed, more = sum(each.passes for each in self._tested), None
        if not num_passed:
            total = int((judged.is_drawn & judged.is_judged).sum())
            tests = [self._test(place) for place in range(len(self._rules))]
            more = _more(tests, self._sizes, target, total, level, self._errors)
            # At most all unjudged pairs are asked for, because nothing is uncertain when all pairs are judged.
            more = None if more is None else min(more, max(round(judged.weights.sum()) - total, 1))
        least = math.ceil(math.log((1 - level) / 2) / math.log(target))
        # Without a verdict all weights are 0, so their sum is not the number of pairs, and `least` is used.
        most = math.ceil(judged.weights[self._rules[-1][1]].sum()) or least
        chosen = self._first + num_passed - 1 if num_passed else None
        return RuleChoice(target, tuple(self._tested), chosen, more, min(least, most))

    def _test(self, place: int) -> TestedRule:
        name, keeps = self._rules[place]
        return judged_rule(self._judged, name, keeps, target=self._target, checks=self._checks, level=self._level)


def judged_rule(
    judged: JudgedPairs, name: str, keeps: Flags, *, target: float, checks: RaterChecks, level: float = _LEVEL
) -> TestedRule:
    """Return what the verdicts say of a rule that keeps these R pairs, (R,) bool."""
    # Undecided pairs count as wrong, so that no rule passes because of them.
    found = judged.share_right(keeps, judged.bounded(0.0))
    corrected = corrected_share(found, checks, level=level)
    share = share_interval(found, level=level) if corrected is None else corrected.share
    estimate = share.value if share.is_known else 0.0
    low = estimate if corrected is None and math.isinf(_size(judged, keeps)) else share.low
    return TestedRule(name, found.num, estimate, low, low >= target)


def _size(judged: JudgedPairs, keeps: Flags) -> float:
    """Return Kish's effective number of verdicts for a rule, by weights alone; infinite if all of them were judged."""
    weights = judged.weights[keeps & judged.is_drawn]
    if not weights.any():
        return 0.0
    return math.inf if (weights == 1).all() else float(weights.sum() ** 2 / (weights**2).sum())


def first_rule(sizes: Sequence[float], target: float, level: float, most_errors: int) -> int:
    """Return the place of the first rule with verdicts enough to pass with `most_errors` wrong ones, or with fewer.

    `sizes` are effective numbers of verdicts of the rules, from strict to loose.
    """
    for errors in range(most_errors, -1, -1):
        least = _least_size(target, errors, level)
        found = [place for place, size in enumerate(sizes) if size >= least]
        if found:
            return found[0]
    return max(len(sizes) - 1, 0)


@functools.cache
def _least_size(target: float, errors: int, level: float) -> int:
    size = errors + 1
    while exact_share(size - errors, size, level=level)[0] < target and size < _MAX_VERDICTS:
        size += 1
    return size


def _more(
    tests: Sequence[TestedRule], sizes: Sequence[float], target: float, total: int, level: float, errors: int
) -> int | None:
    """Return about how many verdicts, beside `total`, it takes until the first rule passes as accurate as it is."""
    # The lower limit approaches the estimate with the square root of the number of verdicts. With more verdicts the
    # sequence starts at a stricter rule.
    for factor in map(float, np.geomspace(1, max(_MAX_VERDICTS / max(total, 1), 1), _NUM_TRIED)):
        first = tests[first_rule([size * factor for size in sizes], target, level, errors)]
        if first.num and first.estimate - (first.estimate - first.low) / math.sqrt(factor) >= target:
            return max(math.ceil(total * (factor - 1)), 1)
    return None
