"""Crops, SAM's input and the decoder over SAM's weights equal segment_anything's own."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from torch.utils.flop_counter import FlopCounterMode

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers import pass_sizes
from pseudoris.workers.masks import sam_model
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder
from pseudoris.workers.masks.sam_model import layer_grids, resized_size


def test_a_layer_without_points_is_refused(masks_config):
    with pytest.raises(ConfigError, match="downscale_factor=4 leaves crop layer 2 without points"):
        layer_grids(masks_config(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_resized_size_is_sams_but_never_zero(height, width):
    expected = ResizeLongestSide.get_preprocess_shape(height, width, 256)
    assert resized_size((height, width), 256) == tuple(max(1, side) for side in expected)


@torch.inference_mode()
def encoded(sam, images, dtype=torch.float32):
    return list(sam_model.encode_sam_crops(sam, images, dtype))


def test_crops_of_any_shape_are_encoded_together_as_sam_encodes_each(sam, draw_image):
    images = [draw_image(*size, seed) for seed, size in enumerate([(64, 64), (50, 81), (130, 90), (7, 90)])]
    predictor = SamPredictor(sam)
    for image, crop in zip(images, encoded(sam, images), strict=True):
        predictor.set_image(image)
        torch.testing.assert_close(crop.embedding, predictor.features[0], rtol=1e-5, atol=1e-5)
        assert (crop.size, crop.input_size) == (image.shape[:2], predictor.input_size)


def test_as_many_crops_are_encoded_at_once_as_the_budget_allows(sam, draw_image, monkeypatch):
    images = [draw_image(40, 60, seed) for seed in range(5)]
    seen = []
    handle = sam.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    together = encoded(sam, images)
    # With two heads and 8 x 8 tokens, scores and softmax of two crops fit. A byte is missing for those of a third.
    monkeypatch.setitem(pass_sizes.SAM_ENCODER_BYTES, "cpu", 3 * 2 * 4 * 2 * 64**2 - 1)
    few = encoded(sam, images)
    monkeypatch.setitem(pass_sizes.SAM_ENCODER_BYTES, "cpu", 1)
    encoded(sam, images[:2])
    handle.remove()
    assert seen == [5, 2, 2, 1, 1, 1]
    for one, other in zip(together, few, strict=True):
        torch.testing.assert_close(one.embedding, other.embedding, rtol=1e-5, atol=1e-5)


KEEP_ALL = 0.0
# Two float32 forwards add up in other orders: each is 2e-5 from the one in float64, on logits of up to 30.
ROUNDING = 4e-5


def points(number, seed=0):
    return 64 * torch.rand(number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def embedding(sam):
    pixels = 255 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return sam.image_encoder(sam.preprocess(torch.nn.functional.interpolate(pixels, (64, 64))))[0]


@torch.no_grad()
def expected(sam, embedding, xy, dtype=torch.float32):
    """Logits (3P, h, w) and predicted IoU (3P,) of SAM's modules, the decoder in `dtype`."""
    labels = torch.ones(len(xy), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(xy[:, None], labels), boxes=None, masks=None)
    given = (embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense)
    logits, iou = copy.deepcopy(sam.mask_decoder).to(dtype)(*(part.to(dtype) for part in given), True)
    return logits.flatten(0, 1), iou.flatten()


@torch.no_grad()
def decoded(sam, embedding, xy, min_predicted_iou=KEEP_ALL, dtype=torch.float32):
    decode = SamPromptDecoder(sam, dtype=dtype)
    return decode(decode.share(embedding), xy, min_predicted_iou=min_predicted_iou)


def test_in_float64_logits_and_predicted_iou_are_sams_own(sam, embedding):
    fine = copy.deepcopy(sam)
    fine.mask_decoder.double()
    theirs = expected(sam, embedding, points(40), torch.float64)
    for ours, value in zip(decoded(fine, embedding.double(), points(40), dtype=torch.float64), theirs, strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-10)


def test_predicted_iou_drops_before_upscaling_what_it_would_drop_after(sam, embedding):
    low, iou = expected(sam, embedding, points(40))
    threshold = float(iou.quantile(0.9))
    num_flops = []
    for bound in (9.0, KEEP_ALL, threshold):
        with FlopCounterMode(display=False) as counted:
            ours_low, ours_iou = decoded(sam, embedding, points(40), min_predicted_iou=bound)
        num_flops.append(counted.get_total_flops())
    none, every, few = num_flops
    is_kept = iou > threshold
    assert 1 < is_kept.sum() < len(iou) / 4
    assert 0 < 40 * (few - none) == is_kept.view(40, 3).any(1).sum() * (every - none)
    torch.testing.assert_close(ours_iou, iou[is_kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_low, low[is_kept], rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("num_bytes", [1, 300_000])
def test_the_prompts_of_a_pass_are_bounded_by_bytes_and_decide_no_result(sam, embedding, monkeypatch, num_bytes):
    whole = decoded(sam, embedding, points(23))
    monkeypatch.setitem(pass_sizes.PROMPT_BYTES, "cpu", num_bytes)
    sizes = []
    # Each pass asks the head once.
    hook = sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    in_passes = decoded(sam, embedding, points(23))
    hook.remove()
    # The image has 8 x 8 tokens of width 32. Each of two heads has seven tokens of a prompt.
    assert max(sizes) == max(1, num_bytes // (4 * 64 * (3 * 32 + 2 * 2 * 7)))
    assert (sum(sizes), len(sizes) > 1) == (23, True)
    for one, other in zip(in_passes, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
