"""What needs no training answers as a student does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.quality.student_baselines import Ceiling, PlaceRules, RandomBaseline, head_phrase
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import MaskRecord
from pseudoris.schemas.tables import MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.renderer import render
from pseudoris.training.evaluation.answerers import ClipChoice
from pseudoris.training.evaluation.held_out import ImageQuestion
from pseudoris.training.metrics import figures_of, pixel_counts
from tests.builders.scene_runs import scene_run, scenes


@pytest.fixture(scope="module")
def proposed(tmp_path_factory):
    """Masks near the truth's of six scenes, and one a scene that is no object."""
    out = tmp_path_factory.mktemp("baselines") / "run"
    location = RunLocation.open(str(out))
    scene_run(location, scenes(6))
    of_image: dict[str, list[MaskRecord]] = {}
    for shard in OpenRun.at(location).shards():
        for row in shard.table(MASKS, ("image_id", "mask_id", "segmentation", "box_xyxy_px", "area_px")).to_pylist():
            size, counts = row["segmentation"]["size"], row["segmentation"]["counts"]
            mask = MaskRecord(row["mask_id"], 0, tuple(size), counts, tuple(row["box_xyxy_px"]), row["area_px"])
            of_image.setdefault(row["image_id"], []).append(mask)
    return lambda question: of_image.get(question.image_id, [])


def questions():
    """Ask for each object of a scene by all of its words."""
    for key, scene in scenes(6).items():
        painted = render(scene)
        words = [each.attributes for each in scene.objects]
        texts = [f"a {each.size} {each.pattern} {each.colour} {each.category}" for each in words]
        image = torch.from_numpy(painted.image).permute(2, 0, 1)
        yield ImageQuestion(image_id(key), image, texts, torch.from_numpy(painted.masks), [], key)


def miou(baseline) -> float:
    rows = [pixel_counts(baseline.answer(question), question.masks) for question in questions()]
    return figures_of(np.concatenate(rows))["miou"]


@pytest.mark.slow
def test_clip_finds_more_than_chance(proposed):
    config = load_config("tiny")
    by_chance = np.mean([miou(RandomBaseline(proposed, seed=seed)) for seed in range(5)])
    by_clip = miou(ClipChoice(proposed, config))
    assert by_chance < 0.4
    assert by_clip > by_chance + 0.2
    assert miou(Ceiling(proposed)) > by_clip


@pytest.mark.slow
def test_places_tell_masks_of_one_noun_apart(proposed):
    config = load_config("tiny")
    nouns = ClipChoice(proposed, config, asked=head_phrase)
    question = next(questions())
    masks = proposed(question)
    # A margin that every mask keeps: only the place decides.
    rules = PlaceRules(nouns, proposed, margin=9.0)
    asked = replace(question, texts=["the leftmost thing", "the second thing from the left", "the rightmost thing"])

    answers = rule_boxes(rules.answer(asked))

    centres = sorted((mask.box_xyxy_px[0] + mask.box_xyxy_px[2]) / 2 for mask in masks)
    assert answers == pytest.approx([centres[0], centres[1], centres[-1]])


def rule_boxes(masks: torch.Tensor) -> list[float]:
    """Return the centre along x of each mask's box."""
    columns = [torch.nonzero(mask.any(0)).flatten() for mask in masks]
    return [float(each.min() + each.max() + 1) / 2 for each in columns]
