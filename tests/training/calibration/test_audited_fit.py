"""Weights moved by a few verdicts: never far from the label-free ones, and better where verdicts tell."""

from __future__ import annotations

import numpy as np
import pytest

from pseudoris.training.calibration.audited_fit import AuditedVerdict, around_label_free
from pseudoris.training.calibration.confidence_fit import NO_LABELS, without_labels
from tests.training.calibration.builders import scene


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(40)]


def verdicts(scenes, number, seed=0, weigh=lambda score: 1.0):
    keys = [
        (key, bool(right), image.rated.scores["truth"][row])
        for image in scenes
        for row, (key, right) in enumerate(
            zip(zip(image.rated.groups, image.rated.texts, strict=True), image.is_right, strict=True)
        )
    ]
    chosen = np.random.default_rng(seed).permutation(len(keys))[:number]
    return {keys[at][0]: AuditedVerdict(float(keys[at][1]), weigh(keys[at][2])) for at in chosen}


def accuracy(scenes, found):
    sums = [image.sums(found.reached.bounds.keeps(image, found.weights))["accuracy"] for image in scenes]
    return sum(each[0] for each in sums) / sum(each[1] for each in sums)


def test_verdicts_make_the_weights_better_and_a_hundred_never_make_them_worse(scenes):
    alone = accuracy(scenes, without_labels(scenes, NO_LABELS, wanted_yield=1.5))
    moved = {
        number: np.mean(
            [
                accuracy(scenes, around_label_free(scenes, verdicts(scenes, number, seed), wanted_yield=1.5)[0])
                for seed in range(3)
            ]
        )
        for number in (100, 800)
    }
    assert moved[100] > alone - 0.01
    assert moved[800] > alone + 0.005


def test_weights_of_the_design_count_and_not_their_unit(scenes):
    said = verdicts(scenes, 200)
    first, scaled = (
        around_label_free(
            scenes,
            {key: AuditedVerdict(each.is_right, factor * each.weight) for key, each in said.items()},
            wanted_yield=1.5,
        )[0].weights
        for factor in (1.0, 50.0)
    )
    other = around_label_free(scenes, verdicts(scenes, 200, weigh=lambda truth: np.exp(2 * truth)), wanted_yield=1.5)
    assert first == scaled
    assert first != other[0].weights


def test_what_no_image_has_is_left_out_and_verdicts_of_one_kind_are_refused(scenes):
    said = {**verdicts(scenes, 100), ("elsewhere-0", "a text"): AuditedVerdict(1.0, 1.0)}
    assert around_label_free(scenes, said, wanted_yield=1.5)[1] == 100
    right = {key: AuditedVerdict(1.0, 1.0) for key in said}
    with pytest.raises(ValueError, match="100 of 100 verdicts are right"):
        around_label_free(scenes, right, wanted_yield=1.5)
