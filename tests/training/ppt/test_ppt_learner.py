"""An answer, and what a user sees of it."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from pseudoris.training.learning.mask_overlay import enlargement
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointAnswer, PointLearner, draw_answer
from tests.training.ppt.builders import small_config


def test_a_wide_image_is_prompted_and_answered_in_its_own_axes(tmp_path) -> None:
    config = small_config(tmp_path)
    learner = PointLearner(config, FrozenEncoders(config, torch.device("cpu")))
    learner.module.eval()
    image = torch.arange(3 * 20 * 40, dtype=torch.int64).reshape(3, 20, 40).remainder(251).to(torch.uint8)

    answer = learner.predict("wide", image, ["a red star"])

    features = learner.encoders.encode(["wide"], [image], ["a red star"])
    # SAM sees a square of 32 pixels. Width before height, as x before y.
    assert features.sam.input_sizes.tolist() == [[32.0, 16.0]]
    with torch.no_grad():
        logits = learner.module.referent(features).mask_logits
    # The image is the upper half of the square.
    square = F.interpolate(logits[:, None].float(), (32, 32), mode="bilinear", align_corners=False)
    due = F.interpolate(square[..., :16, :32], (20, 40), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(answer.logits, due)


def test_points_are_discs_of_their_kind_where_they_lie_and_the_confidence_is_said() -> None:
    image = torch.full((3, 100, 150), 128, dtype=torch.uint8)
    answer = PointAnswer(
        logits=torch.full((1, 100, 150), -1.0),
        points_xy=torch.tensor([[[0.2, 0.3], [0.8, 0.6]]]),
        is_positive=torch.tensor([[True, False]]),
        confidences=torch.tensor([0.75]),
    )

    picture = np.asarray(draw_answer(image, answer, "the star").convert("RGB")).astype(int)

    scale = enlargement((100, 150))
    # Beside the sign in the middle of a disc.
    (positive, negative) = (picture[round(y * scale) - 3, round(x * scale) - 3] for x, y in ((30, 30), (120, 60)))
    assert positive[1] > 200 > positive[0]
    assert negative[0] > 200 > negative[1]
    elsewhere = picture[round(80 * scale), round(30 * scale)]
    assert abs(elsewhere - 128).max() < 10
    # The sign of a positive point has an upright stroke.
    upright = [picture[round(y * scale) - 3, round(x * scale)] for x, y in ((30, 30), (120, 60))]
    assert upright[0].max() < 60 < upright[1].max()
    unsure = dataclasses.replace(answer, confidences=torch.tensor([0.5]))
    assert not np.array_equal(picture, np.asarray(draw_answer(image, unsure, "the star").convert("RGB")))
