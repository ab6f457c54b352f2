"""From a response map to points."""

import numpy as np
import pytest
import torch

from schemas.config_loading import load_config
from training.ppt.recipes.config import GroundingConfig
from training.ppt.recipes.grounding import ResponsePrompter, agreement
from training.ppt.recipes.responses import as_shares, prompted, response_points
from workers.masks.prompting import resize_for_sam

SHARE = np.zeros((8, 8), np.float32)
SHARE[1:4, 1:4] = 0.9
SHARE[2, 2] = 1.0
SHARE[6:, :] = 0.5


def test_a_phrase_is_read_without_its_article() -> None:
    assert prompted("the red star", "a photo of a {}") == "a photo of a red star"
    assert prompted("the", "a photo of a {}") == "a photo of a the"


def test_responses_are_shares_of_their_own_range_and_a_flat_one_is_zero() -> None:
    maps = np.stack([np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]])]).astype(np.float32)

    assert as_shares(maps).tolist() == [[[0.0, 1.0]], [[0.0, 0.0]]]


def test_the_first_point_is_the_peak_and_the_others_spread_over_high_and_low_responses() -> None:
    xy, labels = response_points(SHARE, 3, high=0.8, low=0.2)

    assert xy[0].tolist() == [2.5, 2.5]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]
    at = np.floor(xy).astype(int)
    responses = SHARE[at[:, 1], at[:, 0]]
    assert (responses[labels == 1] >= 0.8).all()
    assert (responses[labels == 0] <= 0.2).all()
    assert len({tuple(point) for point in xy.tolist()}) == 6


def test_where_few_pixels_answer_there_are_fewer_points() -> None:
    _, labels = response_points(SHARE, 30, high=1.0, low=0.2)

    assert (labels == 1).sum() == 1


def test_agreement_is_the_soft_iou() -> None:
    mask = SHARE >= 0.9

    assert agreement(mask, SHARE) == pytest.approx(8.2 / (9 + 16.2 - 8.2), abs=1e-6)
    assert agreement(np.zeros_like(mask), np.zeros_like(SHARE)) == 0.0


def test_a_response_that_is_right_prompts_sam_to_the_object() -> None:
    from synthworld.object_centric import object_centric_scene
    from synthworld.render import render

    torch.set_num_threads(1)
    masks, ious = load_config("tiny").masks, []
    prompter = ResponsePrompter(GroundingConfig(), masks.architecture, masks.weights, torch.device("cpu"))
    for position in range(8):
        rendered = render(object_centric_scene(position))
        truth = rendered.masks[0]
        # What a grid of 16 x 16 patches can say, at its best.
        coarse = resize_for_sam(np.repeat(truth[..., None], 3, 2).astype(np.uint8) * 255, 16)
        share = resize_for_sam(coarse, 192)[..., 0].astype(np.float32) / 255
        ((mask, predicted_iou, _),) = prompter(rendered.image, share[None])
        ious.append((mask & truth).sum() / (mask | truth).sum())
        assert 0.0 < predicted_iou < 1.2
    assert np.mean(ious) > 0.6
