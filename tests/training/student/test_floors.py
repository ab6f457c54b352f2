from __future__ import annotations

import numpy as np
import pytest
import torch

from schemas.config_loading import load_config
from schemas.ids import image_id
from schemas.tables import MASKS
from store.location import RunLocation
from store.reading import iter_table
from synthworld.render import render
from tests.builders.scene_runs import scene_run, scenes
from training.learning.asking import Question
from training.metrics import SegmentationMeter
from training.student.floors import ClipFloor, ProposedMask, ProposedMasks, RandomFloor
from workers.masks import rle


@pytest.fixture(scope="module")
def proposed(tmp_path_factory):
    """Masks near the truth's of six scenes, and one a scene that is no object."""
    out = tmp_path_factory.mktemp("floors") / "run"
    location = RunLocation.open(str(out))
    scene_run(location, scenes(6))
    of_image: dict[str, list[ProposedMask]] = {}
    for table in iter_table(location, MASKS, ("image_id", "segmentation", "box_xyxy_px")):
        for row in table.to_pylist():
            size, counts = row["segmentation"]["size"], row["segmentation"]["counts"]
            mask = ProposedMask(tuple(size), counts, tuple(row["box_xyxy_px"]))
            of_image.setdefault(row["image_id"], []).append(mask)
    return ProposedMasks(of_image)


def questions():
    """Ask for each object of a scene by all of its words."""
    for key, scene in scenes(6).items():
        painted = render(scene)
        words = [each.attributes for each in scene.objects]
        texts = [f"a {each.size} {each.pattern} {each.colour} {each.category}" for each in words]
        image = torch.from_numpy(painted.image).permute(2, 0, 1)
        yield Question(image_id(key), image, texts, torch.from_numpy(painted.masks), [], key)


def miou(floor) -> float:
    meter = SegmentationMeter()
    for question in questions():
        meter.add(floor.answer(question), question.masks)
    return meter.figures().miou


def test_clip_finds_more_than_chance(proposed):
    config = load_config("tiny")
    by_chance = np.mean([miou(RandomFloor(proposed, seed=seed)) for seed in range(5)])
    by_clip = miou(ClipFloor(proposed, config.filtering, config.compute))
    assert by_chance < 0.4
    assert by_clip > by_chance + 0.2


def test_a_random_mask_is_one_of_the_images_and_the_same_each_time(proposed):
    question = next(questions())
    answer = RandomFloor(proposed).answer(question)
    own = {mask.counts for mask in proposed.of(question.image_id)}
    assert set(rle.encode(answer)) <= own
    assert torch.equal(answer, RandomFloor(proposed).answer(question))
    assert not all(torch.equal(answer, RandomFloor(proposed, seed=seed).answer(question)) for seed in range(1, 6))


def test_an_image_without_masks_is_answered_by_none(proposed):
    question = next(questions())
    unknown = Question("0" * 16, question.image, question.texts, question.masks, [], "unknown")
    config = load_config("tiny")
    for floor in (RandomFloor(proposed), ClipFloor(proposed, config.filtering, config.compute, crops="masked")):
        assert not floor.answer(unknown).any()


def test_unknown_crops_are_refused(proposed):
    config = load_config("tiny")
    with pytest.raises(ValueError, match="give one of context, masked, both"):
        ClipFloor(proposed, config.filtering, config.compute, crops="tight")
