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
    assert found.estimate == value


def test_strata_without_an_error_do_not_make_the_sample_larger_than_it_is():
    assert effective_size(estimate(0.97, 200, variance=1e-9), 0.97 * 0.03) == 200


def test_nothing_judged_is_an_interval_of_everything():
    found = share_interval(
        ratio(*np.zeros((2, 0)), weights=np.zeros(0), strata=np.zeros(0, int), units=np.zeros(0, int))
    )
    assert (found.estimate, found.low, found.high) == (None, 0.0, 1.0)


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


def called(value, size=200):
    return RatioEstimate(value, value * (1 - value) / size, size, size, 1 / size, size - 1)


def test_the_error_rate_follows_from_how_often_two_raters_differ():
    found = error_interval(RaterChecks(1_000, 95))
    assert found.estimate == pytest.approx(0.05, abs=0.002)
    assert found.low < 0.05 < found.high


def test_an_accuracy_is_corrected_by_rogan_and_gladens_formula_and_gets_wider():
    found = corrected_share(called(0.86), RaterChecks(400, 38))
    assert found is not None
    assert found.share.estimate == pytest.approx((0.86 - 0.05) / 0.9, abs=0.005)
    assert found.share.low < found.share.estimate < found.share.high
    assert found.share.high - found.share.low > 0.096


@pytest.mark.parametrize("checks", [RaterChecks(59, 3), RaterChecks(100, 50)], ids=["too few", "by chance"])
def test_too_few_checks_or_raters_who_guess_give_no_correction(checks):
    assert corrected_share(called(0.9), checks) is None
