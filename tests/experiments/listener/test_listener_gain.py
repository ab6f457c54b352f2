"""Weights and bounds of development scenes, and what they come to on the scenes asked."""

from dataclasses import replace

import pytest

from experiments.listener.judged_scenes import COMPOSERS
from experiments.listener.listener_gain import AIMS, RULES, gain_report
from pseudoris.training.calibration.confidence_fit import NOTHING_KEPT
from tests.experiments.listener.test_label_budget import drawn


@pytest.fixture(scope="module")
def report():
    """Composers that say nothing."""
    silent = dict.fromkeys(COMPOSERS, NOTHING_KEPT)
    scenes = [replace(drawn(seed), composed=silent) for seed in range(12)]
    return gain_report(scenes[:8], {"test": scenes[8:], "second": scenes[:3]})


def test_each_aim_has_bounds_and_figures_of_every_rule_in_every_world(report):
    assert [(aim["coverage"], aim["yield"]) for aim in report["aims"]] == list(AIMS)
    assert report["scenes"] == {"development": 8, "test": 4, "second": 3}
    for aim in report["aims"]:
        assert list(aim["bounds"]) == list(aim["development"]) == list(RULES)
        for world in ("test", "second"):
            assert list(aim[world]["rules"]) == ["right", "paper", "preset", *RULES]
            assert aim[world]["rules"]["right"]["accuracy"]["value"] == 1.0


def test_a_composer_that_says_nothing_changes_nothing(report):
    for aim in report["aims"]:
        step = aim["test"]["steps"]["all+weighing composer - all"]
        assert {figure: each["value"] for figure, each in step.items()} == dict.fromkeys(step, 0.0)
