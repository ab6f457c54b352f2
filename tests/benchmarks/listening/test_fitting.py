"""Fitted weights tell right from wrong, and bounds keep what they were chosen for."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.listening.collecting import Composed, SceneRows
from benchmarks.listening.fitting import FEATURE_SETS, Bounds, choose, fit, reached, sums_of
from benchmarks.listening.report import bootstrap, rule_tree, step_tree
from schemas.confidence import CONFIDENCE_COLUMNS, Rated, confidences
from schemas.listening import ConfidenceConfig

NUM_CANDIDATES = 12


def scene(seed: int) -> SceneRows:
    """Return three masks' candidates, of which the true and unambiguous ones are right, but for noise."""
    draw = np.random.default_rng(seed)
    size = 3 * NUM_CANDIDATES
    scores = {name: draw.uniform(0.4, 1.0, size) for name in CONFIDENCE_COLUMNS}
    scores["truth"] = draw.uniform(-2, 0, size)
    scores["caption_score"] = scores["truth"] * 5
    scores["uniqueness"] = draw.uniform(0.7, 1.5, size)
    odds = 4 * (scores["truth"] + 1) + 6 * np.log(scores["uniqueness"])
    is_right = draw.random(size) < 1 / (1 + np.exp(-odds))
    groups = [f"{seed}-{n // NUM_CANDIDATES}" for n in range(size)]
    texts = [f"a {n % 3} {n}" for n in range(size)]
    return SceneRows(Rated(groups, texts, scores), is_right, np.arange(size) // NUM_CANDIDATES, 3, 4)


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(40)]


def test_the_weights_are_those_that_made_the_world(scenes):
    weights = fit(scenes, ("truth", "log_uniqueness"))
    assert weights.truth == pytest.approx(4, abs=0.8)
    assert weights.log_uniqueness == pytest.approx(6, abs=1.2)
    assert weights.listener == weights.vote == 0.0


def test_confidence_is_calibrated_on_scenes_it_has_not_seen(scenes):
    weights = fit(scenes[:20], FEATURE_SETS["all"])
    confidence = np.concatenate([confidences(each.rated, weights) for each in scenes[20:]])
    right = np.concatenate([each.is_right for each in scenes[20:]])
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        inside = (confidence >= low) & (confidence < high)
        assert right[inside].mean() == pytest.approx(confidence[inside].mean(), abs=0.12)


def test_chosen_bounds_reach_what_was_aimed_at_and_keep_no_worse_a_rule(scenes):
    weights = fit(scenes, FEATURE_SETS["all"])
    bounds = choose(reached(scenes, weights), coverage=0.6, least_yield=1.5)
    found = bootstrap(scenes, 0.6, {"chosen": (weights, bounds)})
    assert found.ratio("chosen.coverage").value >= 0.6
    assert found.ratio("chosen.yield").value >= 1.5
    assert step_tree(found, "chosen", "preset")["accuracy"]["interval"][0] > 0
    assert rule_tree(found, "right")["accuracy"]["value"] == 1.0


def test_what_cannot_be_reached_gives_the_widest_coverage(scenes):
    weights = ConfidenceConfig(bias=1.0)
    options = reached(scenes, weights)
    bounds = choose(options, coverage=0.99, least_yield=1.0)
    (chosen,) = [each for each in options if each.bounds == bounds]
    assert chosen.coverage == max(each.coverage for each in options) < 0.99


def test_a_mask_is_covered_once_by_what_is_right_of_it(scenes):
    one = scenes[0]
    sums = sums_of(one, Bounds(0.0, 30).keeps(one, ConfidenceConfig()))
    assert sums["yield"] == (36.0, 3)
    assert sums["coverage"][1] == 4
    assert sums["accuracy"] == (one.is_right.sum(), 36.0)


def test_what_a_composer_says_counts_beside_what_is_kept(scenes):
    composed = Composed(np.array([True, False, True]), np.array([3, 3, 0]))
    one = replace(scenes[0], composed={"composer": composed})
    none = np.zeros(len(one.is_right), bool)
    assert sums_of(one, none, "composer") == {"accuracy": (2.0, 3.0), "yield": (3.0, 3), "coverage": (2.0, 4)}
    assert sums_of(one, none)["yield"] == (0.0, 3)


def test_bounds_are_chosen_with_the_composer_beside_them(scenes):
    said = Composed(np.array([True, True]), np.array([3, 0]))
    weights = fit(scenes, FEATURE_SETS["all"])
    given = [replace(each, composed={"composer": said}) for each in scenes]
    found = reached(given, weights, "composer")
    bounds = choose(found, coverage=0.5, least_yield=0.5)
    assert bounds.composer == "composer"
    (chosen,) = [each for each in found if each.bounds == bounds]
    judged = bootstrap(given, 0.6, {"chosen": (weights, bounds)})
    assert judged.ratio("chosen.accuracy").value == pytest.approx(chosen.accuracy)
    assert judged.ratio("chosen.yield").value == pytest.approx(chosen.distinct)
    assert judged.ratio("chosen.coverage").value == pytest.approx(chosen.coverage)
