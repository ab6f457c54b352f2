"""Probabilities to log-odds and back, at the ends too."""

import math

import numpy as np
import pytest

from pseudoris.schemas.confidence import log_odds, logistic


def test_one_is_the_inverse_of_the_other():
    values = np.array([0.001, 0.3, 0.5, 0.97])
    assert log_odds(values) == pytest.approx([math.log(each / (1 - each)) for each in values])
    assert logistic(log_odds(values)) == pytest.approx(values, rel=1e-12)


def test_ends_are_finite_and_what_is_unknown_stays_so():
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert logistic(np.array([-900.0, 900.0])).tolist() == [0.0, 1.0]
    assert np.isnan(logistic(log_odds(np.array([np.nan])))).all()
