"""A second opinion by another CLIP, against open_clip's own forward and a plain softmax."""

import time

import numpy as np
import pytest
import torch

from pseudoris.schemas.config import ComputeConfig, GroundingCheckConfig, WeightsConfig
from pseudoris.workers.crops.crops import make_crops
from pseudoris.workers.filtering import ClipCheck
from pseudoris.workers.filtering.clip_check import choices
from tests.builders.crops import runs_of
from tests.workers.filtering.test_scorer import build_image, build_shard, mask_of, pixels_of

CONFIG = GroundingCheckConfig(
    architecture="builtin:tiny/clip.json", weights=WeightsConfig(uri="random:5"), temperature=0.05
)


@pytest.fixture(scope="module")
def check():
    return ClipCheck(CONFIG, ComputeConfig(device="cpu"))


def test_share_choice_and_rival_equal_the_definition_on_open_clips_own_forward(check):
    image = build_image(num_masks=3)
    got = check(build_shard(image)).images[0]
    model, crop_format = check._embedder._model, check._embedder.crop_format
    crops = make_crops(
        pixels_of(0),
        [mask.box_xyxy_px for mask in image.masks],
        runs=[runs_of(mask_of(index)) for index in range(3)],
        scales=(1.2, None),
        crop_format=crop_format,
        device=torch.device("cpu"),
    )
    seen = []
    for expression in got.expressions:
        i = [mask.mask_id for mask in image.masks].index(expression.target_mask_ids[0])
        with torch.inference_mode():
            text = model.encode_text(check._embedder.tokeniser([expression.text]), normalize=True)[0]
            context, masked = (model.encode_image(each, normalize=True) @ text for each in crops)
        share = ((context + masked) / 2 / 0.05).softmax(0)
        rival = max((k for k in range(3) if k != i), key=lambda k, share=share: float(share[k]))
        assert expression.grounding_share == pytest.approx(float(share[i]), rel=1e-3)
        assert expression.grounding_choice == float(share[i] >= share.max())
        assert expression.grounding_rival == image.masks[rival].mask_id
        assert (expression.kept, expression.correctness) == (False, None)
        seen.append(expression.grounding_choice)
    assert set(seen) == {0.0, 1.0}


def test_a_lone_mask_is_chosen_and_has_no_rival(check):
    for expression in check(build_shard(build_image(num_masks=1))).images[0].expressions:
        told = (expression.grounding_choice, expression.grounding_share, expression.grounding_rival)
        assert told == (1.0, 1.0, None)


def test_the_time_of_a_check_counts_once(check):
    shard, started = build_shard(build_image(num_masks=3)), time.perf_counter()
    seconds = check(shard).seconds["filter"]
    assert 0 < seconds <= time.perf_counter() - started


def test_twins_are_both_chosen_and_share_equally():
    found = choices([[2.0, 2.0], [2.0, 2.0], [0.0, 3.0]], [0, 1])
    assert found.is_target.tolist() == [True, False]
    assert found.share[0] == pytest.approx(1 / (2 + np.exp(-2.0)))
    assert found.rival.tolist() == [1, 2]


def test_a_logit_that_is_not_finite_is_an_error_and_not_a_low_share():
    with pytest.raises(ValueError, match="not finite"):
        choices([[np.nan], [1.0]], [0])
