"""Fitted lines make probabilities of what only ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pseudoris.schemas.fitted import line_weights, log_odds, logistic
from pseudoris.training.calibration.confidence_fit import EVERYTHING, AlwaysKept, calibrate, fit_line, fit_pair_weight
from tests.training.calibration.builders import scene


def drawn(size: int, bias: float, slope: float, seed: int):
    """Return confidences, and whether each is right, with a probability that is a line in their log-odds."""
    draw = np.random.default_rng(seed)
    confidence = draw.uniform(0.02, 0.99, size)
    return confidence, (draw.random(size) < logistic(bias + slope * log_odds(confidence))).astype(np.float64)


@pytest.mark.parametrize(("bias", "slope"), [(0.0, 1.0), (1.2, 0.8), (-1.0, 0.5), (0.5, 2.0)])
def test_weights_are_the_shares_that_are_right_whatever_confidence_was(bias, slope):
    line = fit_line(*drawn(20_000, bias, slope, seed=1))
    assert line is not None
    assert line.slope == pytest.approx(slope, abs=0.08)
    confidence, right = drawn(60_000, bias, slope, seed=2)
    weights = line_weights(line, confidence)
    for low in np.arange(0, 1, 0.1):
        inside = (weights >= low) & (weights < low + 0.1)
        if inside.sum() > 1000:
            assert weights[inside].mean() == pytest.approx(right[inside].mean(), abs=0.03)


def test_few_verdicts_and_unknown_confidences_give_no_line():
    confidence, right = drawn(100, 0.0, 1.0, seed=3)
    assert fit_line(confidence, np.ones(100)) is None
    assert fit_line(confidence, np.r_[np.zeros(4), np.ones(96)]) is None
    assert fit_line(np.full(100, np.nan), right) is None
    assert fit_line(np.r_[confidence, np.nan], np.r_[right, 1.0]) == fit_line(confidence, right)


def test_a_calibration_holds_a_line_for_each_kind():
    confidence, is_right = drawn(40 * 6, 1.0, 0.7, seed=5)
    scenes = []
    for seed in range(40):
        at, names = slice(6 * seed, 6 * seed + 6), [(f"{seed}-0", f"composed {n}") for n in range(6)]
        beside = AlwaysKept(is_right[at].astype(bool), np.arange(6), confidence[at], names)
        scenes.append(replace(scene(seed), beside=beside))
    found = calibrate(scenes, EVERYTHING, coverage=0.5, least_yield=1.0)
    assert found.pair_weight == fit_pair_weight(scenes, found.weights)
    # The weights were fitted to the same verdicts: their line is hardly one.
    assert found.pair_weight.drawn.slope == pytest.approx(1, abs=0.05)
    assert found.pair_weight.composed.slope == pytest.approx(0.7, abs=0.25)
    silent = [replace(each, beside=scene(0).beside) for each in scenes]
    assert fit_pair_weight(silent, found.weights).composed is None
