"""What a second opinion adds: rules are chosen as said, and shares told apart."""

import numpy as np
import pytest

from experiments.grounding_check import TauRule, choice_sums, chosen_rule, reached, report, rules_of, separation
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Rated
from pseudoris.training.calibration.confidence_fit import JudgedImage

PRESET = TauRule(1.35)


def scene(*candidates):
    """Return a scene of two masks, from (mask, distinctiveness, share, whether it is right)."""
    masks, distinct, share, right = (np.array(column) for column in zip(*candidates, strict=True))
    scores = {name: np.full(len(masks), 0.5) for name in CONFIDENCE_COLUMNS}
    scores |= {"distinctiveness": distinct.astype(float), "grounding_share": share.astype(float)}
    texts = [f"text {number}" for number in range(len(masks))]
    return JudgedImage(Rated([str(mask) for mask in masks], texts, scores), right, masks, 2, 2)


SCENES = [
    scene((0, 1.5, 0.9, True), (0, 1.2, 0.8, True), (1, 1.6, 0.1, False), (1, 1.1, 0.7, True)),
    scene((0, 1.4, 0.95, True), (1, 1.4, 0.2, False), (1, 1.3, 0.6, True), (1, np.nan, 1.0, False)),
]


def test_the_most_accurate_rule_reaches_what_the_preset_does():
    before, rule = reached(SCENES, PRESET), chosen_rule(SCENES, PRESET, (0.0, 0.5))
    now = reached(SCENES, rule)
    assert rule.min_share == 0.5
    assert (before["accuracy"], now["accuracy"]) == pytest.approx((2 / 5, 5 / 6))
    assert all(now[name] >= before[name] for name in ("yield", "coverage"))
    assert chosen_rule(SCENES, PRESET, (0.0,)).min_share == 0.0


def test_shares_are_told_apart_and_lone_masks_are_not_counted_as_choices():
    assert choice_sums(SCENES[1]) == {"right": (2.0, 2.0), "wrong": (0.0, 1.0)}
    assert separation(SCENES[:1]) == 1.0
    tied = [scene((0, 1.0, 0.5, True), (1, 1.0, 0.5, False))]
    assert separation(tied) == 0.5


def test_the_report_has_each_rule_and_what_the_check_adds():
    rules = dict(rules_of(SCENES, PRESET))
    found = report(rules, SCENES)
    assert list(found["rules"]) == ["preset", "tau", "tau, check", "vote", "vote, check"]
    with_check, without = (found["rules"][name]["accuracy"]["value"] for name in ("tau, check", "tau"))
    assert found["added"]["tau"]["accuracy"]["value"] == pytest.approx(with_check - without, abs=1e-4)
    assert "grounding_share > 0." in found["rules"]["tau, check"]["rule"]
