"""Weights for any captioner have the same effect where scores have another spread."""

import numpy as np
import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.training.calibration.run_units import CORRECTNESS_STD, SCORE_MEANS, SCORE_STDS, in_units_of

WEIGHTS = load_config("base", None, ["composing={}"]).filtering.fitted_values.posterior
RNG = np.random.default_rng(0)
CORRECTNESS = 0.7 + CORRECTNESS_STD * RNG.standard_normal(4_000)
SCORES = np.array(SCORE_MEANS) + np.array(SCORE_STDS) * RNG.standard_normal((4_000, 2))


def object_odds(weights, scores):
    return weights.object_bias + scores @ [weights.object_predicted_iou, weights.object_stability]


def test_scores_have_the_effect_that_they_had_squeezed_or_not():
    plain = in_units_of(WEIGHTS, CORRECTNESS, SCORES)
    assert plain.noun_correctness == pytest.approx(WEIGHTS.noun_correctness, rel=0.05)
    assert object_odds(plain, SCORES) == pytest.approx(object_odds(WEIGHTS, SCORES), abs=0.25)
    squeezed = 0.1 + 0.2 * CORRECTNESS, 3.0 + 0.4 * SCORES
    found = in_units_of(WEIGHTS, *squeezed)
    assert found.noun_correctness * squeezed[0].std() == pytest.approx(plain.noun_correctness * CORRECTNESS.std(), 1e-3)
    assert object_odds(found, squeezed[1]) == pytest.approx(object_odds(plain, SCORES), abs=1e-2)
    # Nothing else of a posterior has a unit.
    changed = ("noun_correctness", "object_bias", "object_predicted_iou", "object_stability")
    assert found.model_dump(exclude=changed) == WEIGHTS.model_dump(exclude=changed)


def test_a_score_that_is_missing_or_always_the_same_tells_nothing():
    scores = np.column_stack([np.full(5, np.nan), np.full(5, 2.0)])
    found = in_units_of(WEIGHTS, np.full(7, np.nan), scores)
    assert (found.noun_correctness, found.object_predicted_iou, found.object_stability) == (0.0, 0.0, 0.0)
    # A mask of usual scores.
    usual = WEIGHTS.object_bias + np.dot([WEIGHTS.object_predicted_iou, WEIGHTS.object_stability], SCORE_MEANS)
    assert found.object_bias == pytest.approx(usual, abs=1e-3)
