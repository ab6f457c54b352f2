"""What the reliability tables count, and the example that is weighed."""

import numpy as np
import pytest

from experiments.listener.pair_weights import EXAMPLE, judged_scene, mean_gap, reliability
from pseudoris.schemas.config_layers import load_config
from tests.experiments.listener.test_judged_scenes import SCENE, annotated

# Of the scene's objects.
NOUNS = ("circle", "circle", "star")


def test_each_range_has_its_number_mean_and_share():
    probability, right = np.array([0.05, 0.92, 0.94, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    found = reliability(probability, right)
    assert [(name, number) for name, number, _, _ in found] == [("0 to 0.1", 2), ("0.9 to 0.95", 2), ("0.95 to 1", 1)]
    assert [share for *_, share in found] == [0.5, 0.5, 1.0]
    assert mean_gap(probability, right) == pytest.approx((2 * (0.5 - 0.025) + 2 * (0.93 - 0.5)) / 5)


def test_the_examples_composer_speaks_beside_what_is_drawn():
    scores = {"uniqueness": 1.2, "correctness": 0.9, "distinctiveness": 1.4}
    said = [(number, f"a {noun}", {**scores, "head_noun": noun}) for number, noun in enumerate(NOUNS)]
    judged = judged_scene(SCENE, annotated(*said), load_config("tiny", EXAMPLE))
    assert judged.is_right.tolist() == [False, False, True]
    assert len(judged.beside.confidence) == len(judged.beside.is_right) > 0
    assert not np.isnan(judged.beside.confidence).any()
