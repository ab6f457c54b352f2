"""What SAM's encoder sees and what becomes of its decoder's logits, held to `SamPredictor`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from workers.masks import prompting
from workers.masks.grids import point_grid


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (300, 200), (33, 7)])
def test_the_image_is_resized_as_sam_does(draw_image, size):
    image = draw_image(*size)
    np.testing.assert_array_equal(prompting.resize_for_sam(image, 64), ResizeLongestSide(64).apply_image(image))


def test_a_ratio_beyond_sams_keeps_one_pixel(draw_image):
    assert prompting.resize_for_sam(draw_image(1, 5000), 64).shape == (1, 64, 3)


@torch.inference_mode()
def encoded(sam, images, dtype=torch.float32):
    return list(prompting.encode_crops(sam, images, dtype))


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
    # Two heads and 8 x 8 tokens: scores and softmax of two crops, and a byte too few for a third.
    monkeypatch.setitem(prompting._ENCODER_BYTES, "cpu", 3 * 2 * 4 * 2 * 64**2 - 1)
    few = encoded(sam, images)
    monkeypatch.setitem(prompting._ENCODER_BYTES, "cpu", 1)
    encoded(sam, images[:2])
    handle.remove()
    assert seen == [5, 2, 2, 1, 1, 1]
    for one, other in zip(together, few, strict=True):
        torch.testing.assert_close(one.embedding, other.embedding, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_what_the_encoder_computes_in_and_not_what_it_gives(sam, draw_image):
    (fine,), (coarse,) = encoded(sam, [draw_image(64, 64)]), encoded(sam, [draw_image(64, 64)], torch.bfloat16)
    assert coarse.embedding.dtype == torch.float32
    difference = (fine.embedding - coarse.embedding).abs()
    assert 0 < difference.max() < 0.1 * fine.embedding.abs().max()


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (33, 7)])
def test_points_are_those_of_sam(sam, draw_image, size):
    (crop,) = encoded(sam, [draw_image(*size)])
    expected = ResizeLongestSide(64).apply_coords(point_grid(4) * np.array(size[::-1]), size)
    np.testing.assert_array_equal(prompting.to_input_frame(point_grid(4), crop), expected)


@pytest.mark.parametrize("size", [(64, 64), (64, 40), (50, 81), (130, 90)])
def test_logits_are_upsampled_as_sam_does(sam, draw_image, size):
    (crop,) = encoded(sam, [draw_image(*size)])
    low = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = sam.postprocess_masks(low[:, None], crop.input_size, size)[:, 0]
    assert torch.equal(prompting.upsample(low, crop, 64), expected)


def test_the_second_interpolation_is_left_out_where_it_changes_nothing(sam, draw_image, monkeypatch):
    interpolate, sizes = F.interpolate, []
    monkeypatch.setattr(F, "interpolate", lambda x, size, **more: sizes.append(size) or interpolate(x, size, **more))
    for size in [(64, 40), (50, 81)]:
        (crop,) = encoded(sam, [draw_image(*size)])
        prompting.upsample(torch.zeros(1, 32, 32), crop, 64)
    assert sizes.count((64, 64)) == 2
    assert (64, 40) not in sizes
    assert (50, 81) in sizes
