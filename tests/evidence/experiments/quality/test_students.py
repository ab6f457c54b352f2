"""Parts about students: arms, what needs no training, and the parts as they run with real models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evidence.experiments.quality.markdown_cells import said_difference
from evidence.experiments.quality.parts import Options
from evidence.experiments.quality.scene_runs import ALL_KINDS, KINDS, SceneRun, imported_scenes, read_kinds
from evidence.experiments.quality.seed_bootstrap import SeedBootstrap
from evidence.experiments.quality.student_arms import Answered, Arm, answered, train_arms
from evidence.experiments.quality.student_baselines import (
    Place,
    PlaceRules,
    head_phrase,
    read_place,
)
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.answerers import ClipChoice
from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion
from tests.builders.scene_runs import annotated, scenes


def _sums(miou_by_seed: list[float], *, spread: float = 0.0, scenes: int = 200) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0, spread, scenes)
    return np.stack([np.stack([4 * (miou + noise), np.full(scenes, 4.0)], -1) for miou in miou_by_seed])


def test_seeds_widen_an_interval_that_scenes_alone_would_not() -> None:
    bootstrap = SeedBootstrap({"alike": _sums([0.5, 0.5]), "apart": _sums([0.4, 0.5, 0.6])})
    alike, apart = bootstrap.mean("alike"), bootstrap.mean("apart")
    assert (alike.value, alike.low, alike.high) == pytest.approx((0.5, 0.5, 0.5))
    assert apart.value == pytest.approx(0.5)
    assert apart.low < 0.46
    assert apart.high > 0.54


def test_a_share_is_of_the_way_from_one_arm_to_another() -> None:
    arms = {"floor": _sums([0.5], spread=0.1), "arm": _sums([0.6, 0.7], spread=0.1), "top": _sums([0.7], spread=0.1)}

    found = SeedBootstrap(arms).share("arm", floor="floor", top="top")

    assert found.value == pytest.approx(0.75)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(1.0)


ARM = Arm(runs=("out/pseudo",))


@pytest.mark.parametrize(
    "other",
    [
        replace(ARM, runs=("out/pseudo", "out/more")),
        replace(ARM, assignments=("data.is_kept_only=false",)),
        replace(ARM, seed=1),
    ],
)
def test_whatever_differs_is_trained_anew(other: Arm) -> None:
    assert other.digest() != ARM.digest()


def _asked(ious: list[list[float]], counts: list[int]) -> Answered:
    """Return what two seeds answered to questions of three scenes, all of one kind."""
    empty = [(0.0, 0)] * len(counts)
    answers = []
    for seed in ious:
        own = list(zip(seed, counts, strict=True))
        scenes = {**dict.fromkeys(ALL_KINDS, empty), "all": own, "position": own}
        answers.append({"figures": {"miou": sum(seed) / sum(counts)}, "scenes": scenes})
    return answered({"arm": answers})


def test_a_difference_is_of_the_means_over_seeds_its_interval_over_scenes_and_seeds() -> None:
    counts = [1, 2, 1]
    more, less = (
        _asked(ious, counts) for ious in ([[0.5, 1.0, 0.7], [0.7, 1.2, 0.7]], [[0.4, 0.8, 0.6], [0.5, 1.3, 0.5]])
    )
    both = Answered(
        {"more": more.figures["arm"], "less": less.figures["arm"]},
        {"more": more.scenes["arm"], "less": less.scenes["arm"]},
    )

    found = both.difference("more", "less")

    assert found["value"] == pytest.approx((4.8 - 4.1) / 8)
    assert found["seeds"] == pytest.approx([0.1, 0.075])
    assert found["low"] <= found["value"] <= found["high"]
    assert both.difference("more", "less", "position") == found
    assert said_difference(found).endswith("+0.075 to +0.100 by seed: no verdict, 2 trainings")


@pytest.mark.long
def test_arms_are_trained_once_asked_scene_by_scene_and_taken_again_where_they_stand(tmp_path: Path) -> None:
    run = str(imported_scenes(tmp_path / "run", SceneRun(Split.TEST, 2)))
    words = ("training.num_steps=2", "training.num_warmup_steps=1")
    groups = {"arm": [Arm((run,), assignments=words, seed=seed) for seed in (0, 1)]}
    options = Options(tmp_path / "out", is_quick=True, processes=1)

    found = train_arms(options, groups, run, shown="students")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    again = train_arms(options, groups, run, shown="students")

    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert again.figures == found.figures
    assert found.scenes["arm"]["all"].shape == (2, 2, 2)
    sums = found.scenes["arm"]["all"].sum(1)
    assert sum(found.scenes["arm"][kind].sum() for kind in ALL_KINDS if kind != "all") == pytest.approx(sums.sum())
    assert found.figures["arm"]["miou"]["values"] == pytest.approx((sums[:, 0] / sums[:, 1]).tolist(), abs=1e-5)
    assert found.difference("arm", "arm")["value"] == 0.0


LEFT, UP = (-1.0, 0.0), (0.0, -1.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("the small red star", Place()),
        ("the leftmost star", Place(LEFT)),
        ("star on the left", Place(LEFT)),
        ("the second star from the left", Place(LEFT, 1)),
        ("the left of the two stars", Place(LEFT)),
        ("the star to the left of the blue ring", Place(LEFT, anchor="the blue ring")),
        ("the star above the ring", Place(UP, anchor="the ring")),
    ],
)
def test_a_place_is_an_end_a_rank_or_the_side_of_an_anchor(text: str, place: Place) -> None:
    assert read_place(text) == place


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("the small red star", "the small red star"),
        ("the leftmost red star", "the red star"),
        ("star on the left", "star"),
        ("the second dotted star from the left", "the dotted star"),
        ("the left of the two dotted circles", "the dotted circles"),
        ("circle with a hat above the blue ring", "circle with a hat"),
    ],
)
def test_a_head_phrase_has_the_noun_and_its_attributes_alone(text: str, phrase: str) -> None:
    assert head_phrase(text) == phrase


def proposed(question):
    """Return masks near the truth's of a scene, and one that is no object."""
    entry = PlanEntry(0, 0, question.image_id, question.image_key, 100, None, 5)
    return annotated(entry, scenes(6)[question.image_key]).masks


def questions():
    """Ask for each object of a scene by all of its words."""
    for key, scene in scenes(6).items():
        painted = render(scene)
        words = [each.attributes for each in scene.objects]
        texts = [f"a {each.size} {each.pattern} {each.colour} {each.category}" for each in words]
        image = torch.from_numpy(painted.image).permute(2, 0, 1)
        yield ImageQuestion(image_id(key), image, texts, torch.from_numpy(painted.masks), [], key)


@pytest.mark.slow
def test_places_tell_masks_of_one_noun_apart():
    config = load_config("tiny")
    nouns = ClipChoice(proposed, config, asked=head_phrase)
    question = next(questions())
    masks = proposed(question)
    # A margin that every mask keeps: only the place decides.
    rules = PlaceRules(nouns, proposed, margin=9.0)
    asked = replace(question, texts=["the leftmost thing", "the second thing from the left", "the rightmost thing"])

    columns = [torch.nonzero(mask.any(0)).flatten() for mask in rules.answer(asked)]
    centres = sorted((mask.box_xyxy_px[0] + mask.box_xyxy_px[2]) / 2 for mask in masks)
    answered_at = [float(each.min() + each.max() + 1) / 2 for each in columns]
    assert answered_at == pytest.approx([centres[0], centres[1], centres[-1]])


@pytest.mark.slow
def test_every_expression_of_a_run_has_the_kind_that_its_speaker_meant(tmp_path: Path) -> None:
    run = str(imported_scenes(tmp_path, SceneRun(Split.TEST, 2, first=3)))

    kinds = read_kinds(run)
    questions = HeldOutExpressions(run)
    asked = {each.image_id: set(each.texts) for each in questions}

    assert {name: set(found) for name, found in kinds.items()} == asked
    assert {kind for found in kinds.values() for kind in found.values()} == set(KINDS)
