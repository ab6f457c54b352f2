"""What a user sees of an answer."""

import dataclasses

import numpy as np
import torch

from pseudoris.training.learning.mask_overlay import enlargement
from pseudoris.training.ppt.ppt_learner import PointAnswer, draw_answer


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
