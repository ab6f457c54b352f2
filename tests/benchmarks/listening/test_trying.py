"""What was tried beside the listener does to candidates what it says."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.listening.collecting import SceneRows
from benchmarks.listening.labels import COUNTS, measure_labels
from benchmarks.listening.redrawing import measure_redrawn
from benchmarks.listening.rules import Rule
from benchmarks.listening.trying import (
    ATTEMPTS,
    FIGURES,
    best_for_its_text,
    best_for_its_words,
    grounded_by_captioner,
    grounded_by_clip,
    measure_tried,
    one_order,
    one_word,
    plausible,
    with_contrast,
)
from schemas.confidence import CONFIDENCE_COLUMNS, Rated
from schemas.listening import ConfidenceConfig
from training.calibration.fitting import Bounds


def rows(*said, num_masks=2, **scores) -> SceneRows:
    """Return a scene of (mask, text) with the given columns; every text is right."""
    columns = {name: np.ones(len(said)) for name in CONFIDENCE_COLUMNS}
    columns |= {name: np.array(values, np.float64) for name, values in scores.items()}
    rated = Rated([mask for mask, _ in said], [text for _, text in said], columns)
    targets = np.array([int(mask) for mask, _ in said])
    return SceneRows(rated, np.ones(len(said), bool), targets, num_masks, num_masks)


def test_a_text_of_two_masks_stays_with_the_one_that_has_it_with_more_confidence():
    scene = rows(("0", "a red star"), ("1", "a red star"), ("1", "the star is red"), ("1", "a star red"))
    confidence = np.array([0.9, 0.6, 0.7, 0.1])
    assert best_for_its_text(scene, confidence).tolist() == [True, False, True, True]
    assert best_for_its_words(scene, confidence).tolist() == [True, False, False, False]
    # Of one mask's own texts none takes another's place.
    alone = rows(("0", "a red star"), ("0", "a star red"))
    assert best_for_its_words(alone, np.array([0.9, 0.1])).all()


def test_near_duplicates_go_and_the_best_of_each_stays():
    scene = rows(
        ("0", "a star red"), ("0", "a red star"), ("0", "a large red star"), ("0", "a blue dog"), ("1", "a red star")
    )
    confidence = np.array([0.5, 0.9, 0.6, 0.4, 0.1])
    assert one_order(scene, confidence).tolist() == [False, True, True, True, True]
    assert one_word(scene, confidence).tolist() == [False, True, False, True, True]


def test_what_its_own_models_take_for_another_mask_is_not_grounded():
    scene = rows(("0", "a"), ("0", "b"), ("1", "c"), listener=[0.9, 0.4, 0.6], distinctiveness=[1.2, 0.9, np.nan])
    assert grounded_by_captioner(scene, np.zeros(3)).tolist() == [True, False, True]
    assert grounded_by_clip(scene, np.zeros(3)).tolist() == [True, False, True]


def test_a_contrast_of_probabilities_follows_from_the_listener():
    # Under masks 0, 1, 2: 0.4, 0.1, 0.1 of the first text, 0.2, 0.2, 0.0 of the second.
    scene = rows(("0", "a"), ("0", "b"), num_masks=3, caption_score=np.log([0.4, 0.2]), listener=[0.4 / 0.6, 0.5])
    contrast = with_contrast(scene).features["listener"]
    assert contrast == pytest.approx([(0.4 - 0.1) / 0.4, (0.2 - 0.1) / 0.4])
    assert plausible(0.6)(scene, np.zeros(2)).tolist() == [True, False]
    # The scene itself keeps its own.
    assert scene.features["listener"][1] == pytest.approx(0.0)


def drawn(seed: int) -> SceneRows:
    draw = np.random.default_rng(seed)
    size = 30
    scores = {name: draw.uniform(0.4, 1.0, size) for name in CONFIDENCE_COLUMNS}
    scores["truth"] = draw.uniform(-2, 0, size)
    scores["caption_score"] = scores["truth"] * 5
    scores["distinctiveness"] = draw.uniform(0.7, 1.5, size)
    is_right = draw.random(size) < 1 / (1 + np.exp(-4 * (scores["truth"] + 1)))
    texts = [f"the {n % 5} thing {n % 7}" for n in range(size)]
    rated = Rated([str(n // 10) for n in range(size)], texts, scores)
    return SceneRows(rated, is_right, np.arange(size) // 10, 3, 4, is_right_by_sentences=is_right[::-1].copy())


@pytest.fixture(scope="module")
def scenes():
    return [drawn(seed) for seed in range(30)]


def test_each_attempt_has_figures_and_a_paired_difference(scenes):
    found = measure_tried(scenes[:20], scenes[20:], (0.5, 1.0))
    assert list(found["rules"]) == ["all", *ATTEMPTS]
    assert list(found["steps"]) == list(ATTEMPTS)
    assert all(list(each) == list(FIGURES) for each in found["rules"].values())
    assert found["bounds"]["no other order, same bounds"] == found["bounds"]["all"]
    same = found["rules"]["no other order, same bounds"]
    assert same["different"] == same["yield"]
    assert found["rules"]["all"]["different"]["value"] <= found["rules"]["all"]["yield"]["value"]


def test_labels_are_counted_from_none_to_all_and_no_verdict_moves_the_first_row(scenes):
    asked = {"test": scenes[20:], "second": scenes[:5]}
    found = measure_labels(scenes[:20], asked, (0.5, 1.0))
    assert [row["scenes"] for row in found if row["rule"] == "all" and row["labels"] == "oracle"] == [
        count for count in COUNTS if count <= 20
    ]
    whole = next(row for row in found if row["scenes"] == 20 and row["labels"] == "oracle")
    assert (whole["draws"], whole["test"]["accuracy"]["std"]) == (1, None)
    few = next(row for row in found if row["scenes"] == 5)
    assert few["test"]["accuracy"]["least"] <= few["test"]["accuracy"]["mean"]
    assert few["candidates_a_scene"] == 30.0
    wrong = [replace(scene, is_right=~scene.is_right) for scene in scenes[:20]]
    again = measure_labels(wrong, asked, (0.5, 1.0))
    assert again[0] == found[0]
    assert again[1] != found[1]


def test_other_draws_are_paired_with_the_first_scenes(scenes):
    rule = Rule(ConfidenceConfig(truth=1.0), Bounds(0.3, 3))
    found = measure_redrawn(scenes, scenes[:10], rule, 1.0)
    assert found["scenes"] == 10
    for kept in ("drawn", "preset", "all"):
        assert found[kept]["mean"] == found[kept]["similar"]
        assert found[kept]["step"]["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    other = [replace(scene, is_right=np.zeros_like(scene.is_right)) for scene in scenes[:10]]
    redrawn = measure_redrawn(scenes, other, rule, 1.0)["drawn"]
    assert redrawn["similar"]["accuracy"]["value"] == 0.0
    assert redrawn["mean"] == found["drawn"]["mean"]
    assert redrawn["step"]["accuracy"]["value"] == -found["drawn"]["mean"]["accuracy"]["value"]
