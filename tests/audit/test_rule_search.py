"""The choice of a rule by verdicts; its promise is measured in experiments/audits."""

from __future__ import annotations

import numpy as np
import pytest

from pseudoris.audit.intervals import RaterChecks
from pseudoris.audit.judged_pairs import KINDS, JudgedPairs
from pseudoris.audit.rule_search import choose_rule

NO_CHECKS = RaterChecks(0, 0)


def judged(right, inclusion=0.01):
    size = len(right)
    counts = np.zeros((size, len(KINDS)), np.int64)
    counts[np.arange(size), np.where(right, KINDS.index("right"), KINDS.index("untrue"))] = 1
    zeros, ones = np.zeros(size, np.int64), np.ones(size, np.bool_)
    return JudgedPairs(
        ids=tuple(map(str, range(size))),
        counts=counts,
        is_drawn=ones,
        stratum=zeros,
        inclusion=np.broadcast_to(inclusion, size),
        image=np.arange(size),
        mask=np.arange(size),
        kind=np.full(size, "drawn"),
        is_kept=ones,
        num_kept_of_mask=zeros + 1,
    )


def chosen(right, *sizes, target=0.9, inclusion=0.01):
    places = np.arange(len(right))
    keeps = [places < size for size in sizes]
    return choose_rule(
        judged(np.array(right, bool), inclusion), keeps, [f"first {s}" for s in sizes], target=target, checks=NO_CHECKS
    )


def test_the_loosest_rule_before_the_first_that_fails_is_chosen():
    found = chosen([1] * 100 + [0] * 60, 80, 100, 120, 160)
    assert [(each.name, each.passes) for each in found.tested] == [
        ("first 80", True),
        ("first 100", True),
        ("first 120", False),
    ]
    assert found.chosen == 1


def test_a_rule_after_a_failure_is_not_looked_at():
    found = chosen([1] * 60 + [0] * 12 + [1] * 400, 65, 72, 470)
    assert [each.passes for each in found.tested] == [False]
    assert found.chosen is None


def test_a_target_that_looks_reached_but_is_not_shown_says_how_many_more_verdicts_tell():
    found = chosen([1] * 56 + [0] * 4, 60)
    assert found.chosen is None
    assert found.tested[0].estimate == pytest.approx(56 / 60)
    assert 100 < found.more < 1_000
    assert chosen([1, 0] * 50, 100).more is None
    # No more than the pairs that the run has.
    assert chosen([1] * 19 + [0], 20, inclusion=0.8).more == 5


def test_what_was_judged_whole_needs_no_number_of_verdicts():
    found = chosen([1] * 12 + [0], 12, 13, target=0.95, inclusion=1.0)
    assert [(each.low, each.passes) for each in found.tested] == [(1.0, True), (pytest.approx(12 / 13), False)]
    assert chosen([1] * 12, 12, target=0.95, inclusion=0.5).least == 24


def test_without_a_verdict_the_number_that_could_tell_is_named():
    found = chosen([], 0)
    assert (found.chosen, found.more, found.least) == (None, None, 29)
