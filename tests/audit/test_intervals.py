"""Intervals of shares that a sample was judged on, and the choice of a rule by verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pseudoris.audit.intervals import (
    RaterChecks,
    RatioEstimate,
    corrected_share,
    effective_size,
    error_interval,
    mean_interval,
    ratio,
    share_interval,
)
from pseudoris.audit.judged_pairs import KINDS, JudgedPairs
from pseudoris.audit.rule_search import choose_rules


def estimate(value, size, variance=None, degrees=None):
    variance = value * (1 - value) / size if variance is None else variance
    return RatioEstimate(value, variance, size, size, 1 / size, size - 1 if degrees is None else degrees)


def test_without_a_design_the_interval_is_clopper_and_pearsons():
    found = share_interval(estimate(0.9, 200))
    exact = stats.binomtest(180, 200).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("value", "side"), [(1.0, 0), (0.0, 1)])
def test_verdicts_that_are_all_equal_still_leave_doubt(value, side):
    found = share_interval(estimate(value, 50, variance=0.0))
    limit = 0.025 ** (1 / 50)
    assert (found.low, 1 - found.high)[side] == pytest.approx(limit, rel=1e-6)
    assert found.value == value


def test_strata_without_an_error_do_not_make_the_sample_larger_than_it_is():
    assert effective_size(estimate(0.97, 200, variance=1e-9), 0.97 * 0.03) == 200


def test_nothing_judged_is_an_interval_of_everything():
    found = share_interval(
        ratio(*np.zeros((2, 0)), weights=np.zeros(0), strata=np.zeros(0, int), units=np.zeros(0, int))
    )
    assert (found.is_known, found.low, found.high) == (False, 0.0, 1.0)


def test_a_mean_of_counts_has_garwoods_interval():
    found = mean_interval(estimate(0.5, 40, variance=0.5 / 40))
    assert found.low == pytest.approx(stats.chi2.ppf(0.025, 40) / 80)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 42) / 80)


def test_the_variance_of_a_stratified_mean_is_the_text_books():
    y = np.array([1, 0, 1, 1, 1, 0, 1, 1.0])
    strata = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    weights = np.where(strata == 0, 30.0, 10.0)
    found = ratio(y, np.ones(8), weights=weights, strata=strata, units=np.arange(8))
    assert found.value == pytest.approx(0.75)
    share = np.array([0.75, 0.25])
    variances = np.array([y[strata == h].var(ddof=1) / 4 for h in (0, 1)])
    assert found.variance == pytest.approx((share**2 * variances).sum())
    assert found.degrees == 6


def test_pairs_of_one_image_count_as_one_unit():
    y = np.array([1, 1, 1, 0, 0, 0, 1, 1.0])
    one, four = (
        ratio(y, np.ones(8), weights=np.ones(8), strata=np.zeros(8, int), units=units).variance
        for units in (np.arange(8), np.arange(8) // 2)
    )
    assert four > one


def test_the_error_rate_follows_from_how_often_two_raters_differ():
    found = error_interval(RaterChecks(1_000, 95))
    assert found.value == pytest.approx(0.05, abs=0.002)
    assert found.low < 0.05 < found.high


def test_an_accuracy_is_corrected_by_rogan_and_gladens_formula_and_gets_wider():
    found = corrected_share(estimate(0.86, 200), RaterChecks(400, 38))
    assert found is not None
    assert found.share.value == pytest.approx((0.86 - 0.05) / 0.9, abs=0.005)
    assert found.share.low < found.share.value < found.share.high
    assert found.share.high - found.share.low > 0.096


@pytest.mark.parametrize("checks", [RaterChecks(59, 3), RaterChecks(100, 50)], ids=["too few", "by chance"])
def test_too_few_checks_or_raters_who_guess_give_no_correction(checks):
    assert corrected_share(estimate(0.9, 200), checks) is None


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


def chosen(right, *sizes, target=0.9, inclusion=0.01, num_searches=1):
    places = np.arange(len(right))
    rules = [(f"first {size}", places < size) for size in sizes]
    verdicts = judged(np.array(right, bool), inclusion)
    return choose_rules(verdicts, [rules] * num_searches, target=target, checks=RaterChecks(0, 0))[0]


def test_the_loosest_rule_before_the_first_that_fails_is_chosen():
    found = chosen([1] * 100 + [0] * 60, 80, 100, 120, 160)
    tested = [("first 80", True), ("first 100", True), ("first 120", False)]
    assert [(each.name, each.passes) for each in found.tested] == tested
    assert found.chosen == 1


def test_searches_of_one_run_share_the_chance_to_err():
    found = [chosen([1] * 120 + [0] * 5, 125, num_searches=number) for number in (1, 2, 5)]
    assert [(each.chosen, each.least) for each in found] == [(0, 29), (0, 36), (None, 44)]


def test_a_search_whose_rules_all_pass_leaves_its_share_of_the_chance_to_err_to_the_others():
    places = np.arange(225)
    verdicts = judged(np.array([1] * 93 + [0] * 4 + [1] * 128, bool))
    close = [(f"first {size}", places < size) for size in (80, 97)]

    def found(first, last):
        other = [("the rest", (places >= first) & (places < last))]
        return choose_rules(verdicts, [close, other], target=0.9, checks=RaterChecks(0, 0))

    alone, shared = found(90, 130)[0], found(97, 225)[0]
    assert [each.passes for each in alone.tested] == [True, False]
    assert [each.passes for each in shared.tested] == [True, True]
    # The start stays where it was: another search's verdicts have no part in it.
    assert [each.name for each in shared.tested] == [each.name for each in alone.tested]


@pytest.mark.parametrize(("num_others", "expected"), [(35, [0, None]), (39, [None, None])])
def test_a_search_with_too_few_verdicts_to_pass_has_no_share_of_the_chance_to_err(num_others, expected):
    # 4 wrong verdicts of 95 pass with 5 %, not with 2.5 %; of 39 others one is wrong, and fails with 2.5 %.
    places = np.arange(134)
    verdicts = judged(np.array([1] * 91 + [0] * 4 + [1] * 38 + [0], bool))
    searches = [[("close", places < 95)], [("others", places >= 134 - num_others)]]
    found = choose_rules(verdicts, searches, target=0.9, checks=RaterChecks(0, 0))
    assert [each.chosen for each in found] == expected


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
