"""Fitted weights tell right from wrong in any run's units, bounds hold, names of one thing merge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Rated, line_weights, log_odds, logistic
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.calibration.confidence_fit import (
    EVERYTHING,
    NO_LABELS,
    NO_LABELS_VOTE,
    AlwaysKept,
    calibrate,
    calibrated_run,
    choose,
    fit,
    fit_line,
    fit_pair_weight,
    judged_images,
    reached,
    without_labels,
)
from pseudoris.training.calibration.run_units import (
    CORRECTNESS_STD,
    SCORE_MEANS,
    SCORE_STDS,
    in_units_of,
    noun_relations,
)
from pseudoris.workers.composing.posterior import Evidence
from tests.builders.scene_runs import judged_scene, quarantined, said, scene_run, scored, truth_bytes
from tests.builders.scene_runs import scenes as drawn_scenes

KNOWN = drawn_scenes(8)
WEIGHTS = load_config("base", None, ["composing={}"]).filtering.fitted_values.posterior
RNG = np.random.default_rng(0)
CORRECTNESS = 0.7 + CORRECTNESS_STD * RNG.standard_normal(4_000)
SCORES = np.array(SCORE_MEANS) + np.array(SCORE_STDS) * RNG.standard_normal((4_000, 2))


@pytest.fixture(scope="module")
def scenes():
    return [judged_scene(seed) for seed in range(40)]


def test_the_weights_are_those_that_made_the_world(scenes):
    weights = fit(scenes, ("truth", "log_uniqueness"))
    assert weights.truth == pytest.approx(4, abs=0.8)
    assert weights.log_uniqueness == pytest.approx(6, abs=1.2)
    assert weights.listener == weights.vote == 0.0


def totals(images, keep):
    sums = [image.sums(keep(image)) for image in images]
    return {name: sum(each[name][0] for each in sums) / sum(each[name][1] for each in sums) for name in sums[0]}


@pytest.mark.parametrize("beside", [False, True])
def test_what_bounds_reach_is_what_they_keep_counted_image_by_image(scenes, beside):
    said = AlwaysKept(np.array([True, False, True]), np.array([3, 3, 0]), np.full(3, np.nan))
    given = [replace(each, beside=said) if beside else each for each in scenes]
    # An image of which nothing was drawn has masks and objects all the same.
    empty = {name: np.zeros(0) for name in CONFIDENCE_COLUMNS}
    nothing = replace(given[0], rated=Rated([], [], empty), is_right=np.zeros(0, bool), targets=np.zeros(0, int))
    given.append(nothing)
    weights = fit(given, EVERYTHING)
    options = reached(given, weights)
    for each in options[:: len(options) // 25]:
        counted = totals(given, lambda image, bounds=each.bounds: bounds.keeps(image, weights))
        assert each.accuracy == pytest.approx(counted["accuracy"])
        assert each.distinct == pytest.approx(counted["yield"])
        assert each.coverage == pytest.approx(counted["coverage"])


def test_chosen_bounds_reach_what_was_aimed_at_as_accurately_as_any(scenes):
    options = reached(scenes, fit(scenes, EVERYTHING))
    found = choose(options, coverage=0.6, least_yield=1.5)
    assert found.coverage >= 0.6
    assert found.distinct >= 1.5
    wide = [each for each in options if each.coverage >= 0.6 and each.distinct >= 1.5]
    assert found.accuracy == max(each.accuracy for each in wide)


def test_without_labels_verdicts_change_nothing_and_the_yield_is_about_what_was_asked(scenes):
    found = without_labels(scenes, NO_LABELS, wanted_yield=2.0)
    blind = [replace(each, is_right=np.zeros(len(each.is_right), bool)) for each in scenes]
    again = without_labels(blind, NO_LABELS, wanted_yield=2.0)
    assert (again.weights, again.reached.bounds) == (found.weights, found.reached.bounds)
    assert found.reached.distinct == pytest.approx(2.0, abs=0.2)
    everything = totals(scenes, lambda image: np.ones(len(image.is_right), bool))
    assert found.reached.accuracy > everything["accuracy"] + 0.1
    # Where every mask is alone in its image, none has a uniqueness, and the score weighs nothing.
    unknown = {"uniqueness": np.full(36, np.nan)}
    lone = [replace(each, rated=replace(each.rated, scores=each.rated.scores | unknown)) for each in scenes]
    assert without_labels(lone, NO_LABELS, wanted_yield=2.0).weights.log_uniqueness == 0.0


@pytest.mark.parametrize("verdict", [False, True])
def test_verdicts_of_one_kind_alone_are_refused(scenes, verdict):
    alike = [replace(each, is_right=np.full(len(each.is_right), verdict)) for each in scenes]
    with pytest.raises(ValueError, match="Fitting needs right and wrong ones"):
        calibrate(alike, EVERYTHING, coverage=0.5, least_yield=1.0)


def written(folder, change=scored):
    location = RunLocation.open(str(folder))
    scene_run(location, KNOWN, change=change)
    return location


@pytest.fixture
def truth():
    return SceneTruth.from_json(truth_bytes(dict(list(KNOWN.items())[:6])), "truth.json")


def test_what_was_composed_is_kept_beside_and_is_no_candidate(tmp_path, truth):
    def composing(image):
        image = scored(image)
        one = said(image.masks[0].mask_id, "the leftmost thing")
        one = replace(one, samples=(), source=SOURCE_COMPOSER, kind="position", confidence=0.9)
        return replace(image, expressions=(*image.expressions, one))

    found = judged_images(written(tmp_path / "run", composing), truth)
    assert [len(image.beside.is_right) for image in found] == [1] * 6
    assert {image.beside.confidence.tolist()[0] for image in found} == {0.9}
    assert {text for image in found for _, text in image.beside.pairs} == {"the leftmost thing"}
    assert all("the leftmost thing" not in image.rated.texts for image in found)


@pytest.mark.parametrize(("has_listened", "names"), [(True, NO_LABELS), (False, NO_LABELS_VOTE)])
def test_without_a_truth_every_image_counts_and_the_scores_that_there_are(tmp_path, has_listened, names):
    location = written(tmp_path / "run", lambda image: scored(image, has_listened=has_listened))
    found = calibrated_run(location, None, coverage=0.5, least_yield=1.5)
    assert found.num_images == 8
    weights = found.weights.model_dump(exclude_defaults=True)
    assert weights.keys() - {"bias", "lone_log_ratio"} == set(names)
    assert all(weights[name] > 0 for name in names)
    assert found.reached.distinct == pytest.approx(1.5, abs=0.5)


def test_with_a_truth_a_run_without_a_listener_weighs_the_vote(tmp_path, truth):
    location = written(tmp_path / "run", lambda image: scored(image, has_listened=False))
    found = calibrated_run(location, truth, coverage=0.1, least_yield=0.5)
    assert found.num_images == 6
    assert calibrated_run(location, truth, coverage=0.1, least_yield=0.5, max_images=4).num_images == 4
    assert not found.weights.needs_listener
    assert found.weights.vote != 0
    assert found.reached.coverage >= 0.1


def test_a_run_without_candidates_is_refused_without_a_truth_too(tmp_path):
    location = written(tmp_path / "run", quarantined)
    with pytest.raises(ConfigError, match=r"no committed image with candidates$"):
        calibrated_run(location, None, coverage=0.5, least_yield=1.0)


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
        scenes.append(replace(judged_scene(seed), beside=beside))
    found = calibrate(scenes, EVERYTHING, coverage=0.5, least_yield=1.0)
    assert found.pair_weight == fit_pair_weight(scenes, found.weights)
    # The weights were fitted to the same verdicts: their line is hardly one.
    assert found.pair_weight.drawn.slope == pytest.approx(1, abs=0.05)
    assert found.pair_weight.composed.slope == pytest.approx(0.7, abs=0.25)
    silent = [replace(each, beside=judged_scene(0).beside) for each in scenes]
    assert fit_pair_weight(silent, found.weights).composed is None


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


NOISE = np.random.default_rng(0)


def masks_of(number, shares, correctness):
    """Masks of one thing: the shares of its names, jittered, and the scorer's mark of each."""
    for _ in range(number):
        drawn = {name: share * NOISE.uniform(0.7, 1.3) for name, share in shares.items()}
        total = sum(drawn.values())
        marks = {name: correctness[name] + NOISE.normal(0.0, 0.01) for name in drawn}
        yield Evidence({name: share / total for name, share in drawn.items()}, marks, {}, ())


def flat(*names, mark=0.0):
    return dict.fromkeys(names, mark)


MARKS = flat("circle", "moon", mark=0.55)
# Masks, pairs of names that are one, and the names that a wider one covers.
CASES = {
    "names that the scorer tells apart are confused: each circle is called a ring now and then": (
        [
            (30, {"circle": 0.85, "ring": 0.15}, {"circle": 0.7, "ring": 0.55}),
            (30, {"ring": 0.85, "circle": 0.15}, {"circle": 0.55, "ring": 0.7}),
        ],
        (),
        {},
    ),
    "names that meet only where a mask is unclear": (
        [
            (30, {"boat": 1.0}, {"boat": 0.6}),
            (30, {"moon": 1.0}, {"moon": 0.6}),
            (6, {"boat": 0.5, "moon": 0.5}, {"boat": 0.6, "moon": 0.6}),
        ],
        (),
        {},
    ),
    "a wrong noun that is drawn for every mask of another, without a scorer": (
        [
            (40, {"man": 0.65, "guy": 0.24, "boy": 0.06, "person": 0.05}, flat("man", "guy", "boy", "person")),
            (6, {"boy": 0.85, "man": 0.1, "person": 0.05}, flat("boy", "man", "person")),
            (20, {"girl": 0.95, "person": 0.05}, flat("girl", "person")),
        ],
        (("man", "guy"),),
        {"person": {"man", "boy", "girl"}},
    ),
    "a name that the scorer prefers where it is drawn more is confused with two things, and not wider": (
        [
            (30, {"circle": 0.8, "ring": 0.2}, {"circle": 0.7, "ring": 0.55}),
            (30, {"moon": 0.8, "ring": 0.2}, {"moon": 0.7, "ring": 0.55}),
            (30, {"ring": 0.8, "circle": 0.1, "moon": 0.1}, {"ring": 0.7, **MARKS}),
        ],
        (),
        {},
    ),
    "a name that is drawn beside two things is wider than the more frequent one": (
        [
            (40, {"girl": 0.7, "kid": 0.3}, flat("girl", "kid", mark=0.6)),
            (8, {"boy": 0.7, "kid": 0.3}, flat("boy", "kid", mark=0.6)),
        ],
        (),
        {"kid": {"boy", "girl"}},
    ),
    "two names of one thing are one, and a wider name covers what it is drawn beside": (
        [
            (30, {"man": 0.6, "guy": 0.25, "person": 0.15}, {"man": 0.7, "guy": 0.69, "person": 0.68}),
            (30, {"woman": 0.8, "person": 0.2}, {"woman": 0.7, "person": 0.68}),
            (30, {"dog": 1.0}, {"dog": 0.5}),
        ],
        (("man", "guy"),),
        {"person": {"man", "woman"}},
    ),
    "a name beside one thing alone is not wider": (
        [(30, {"dog": 0.85, "tail": 0.15}, {"dog": 0.7, "tail": 0.69}), (30, {"tail": 1.0}, {"tail": 0.69})],
        (),
        {},
    ),
    "few masks": ([(4, {"man": 0.6, "guy": 0.4}, {"man": 0.7, "guy": 0.7})], (), {}),
    "none": ([], (), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_names_are_one_or_wider(case):
    masks, same, wider = CASES[case]
    found = noun_relations([each for given in masks for each in masks_of(*given)])
    assert (found.same, {name: set(names) for name, names in found.wider.items()}) == (same, wider)
    # What is drawn of a thing is as true of a name that covers it.
    for name, names in wider.items():
        assert found.truth[name] == dict.fromkeys((*names, name), 1.0)


def test_beside_the_table_of_kinds_only_names_of_many_masks_teach_something():
    few, many = (list(masks_of(number, {"man": 0.6, "guy": 0.4}, flat("man", "guy"))) for number in (40, 60))
    assert noun_relations(few).same == noun_relations(many, 50).same == (("man", "guy"),)
    assert noun_relations(few, 50).same == ()
