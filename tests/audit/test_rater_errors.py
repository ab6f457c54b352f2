from __future__ import annotations

import pytest

from pseudoris.audit.intervals import RatioEstimate
from pseudoris.audit.rater_errors import RaterChecks, corrected_share, error_interval


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
    assert found.share.width > 0.096


@pytest.mark.parametrize("checks", [RaterChecks(59, 3), RaterChecks(100, 50)], ids=["too few", "by chance"])
def test_too_few_checks_or_raters_who_guess_give_no_correction(checks):
    assert corrected_share(called(0.9), checks) is None
