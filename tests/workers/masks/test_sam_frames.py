"""Point grids, crops, SAM's input and its logits equal segment_anything's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.masks import sam_frames
from pseudoris.workers.masks.sam_frames import crop_boxes, layer_grids, point_grid, resized_size


@pytest.mark.parametrize("points_per_side", [1, 2, 7, 12, 32])
def test_the_point_grid_is_sams(points_per_side):
    np.testing.assert_array_equal(point_grid(points_per_side), amg.build_point_grid(points_per_side))


def test_layers_have_fewer_points_by_the_downscale_factor(masks_config):
    grids = layer_grids(masks_config(points_per_side=9, crop_n_layers=2, crop_n_points_downscale_factor=2))
    assert [len(grid) for grid in grids] == [81, 16, 4]


def test_a_layer_without_points_is_refused(masks_config):
    with pytest.raises(ConfigError, match="downscale_factor=4 leaves crop layer 2 without points"):
        layer_grids(masks_config(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4))


@pytest.mark.parametrize("size", [(64, 64), (427, 640), (640, 427), (100, 1000)])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_crops_are_sams(masks_config, size, layers):
    config = masks_config(crop_n_layers=layers)
    boxes, numbers = amg.generate_crop_boxes(size, layers, config.crop_overlap_ratio)
    assert crop_boxes(size, config) == [(tuple(box), number) for box, number in zip(boxes, numbers, strict=True)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (2, 3)])
def test_every_crop_of_a_tiny_image_holds_pixels(masks_config, size):
    crops = crop_boxes(size, masks_config(crop_n_layers=2))
    assert crops[0] == ((0, 0, size[1], size[0]), 0)
    assert all(x1 > x0 and y1 > y0 for (x0, y0, x1, y1), _ in crops)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_resized_size_is_sams_but_never_zero(height, width):
    expected = ResizeLongestSide.get_preprocess_shape(height, width, 256)
    assert resized_size((height, width), 256) == tuple(max(1, side) for side in expected)


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (300, 200), (33, 7)])
def test_the_image_is_resized_as_sam_does(draw_image, size):
    image = draw_image(*size)
    np.testing.assert_array_equal(sam_frames.resize_for_sam(image, 64), ResizeLongestSide(64).apply_image(image))


def test_a_ratio_beyond_sams_keeps_one_pixel(draw_image):
    assert sam_frames.resize_for_sam(draw_image(1, 5000), 64).shape == (1, 64, 3)


@torch.inference_mode()
def encoded(sam, images, dtype=torch.float32):
    return list(sam_frames.encode_crops(sam, images, dtype))


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
    monkeypatch.setitem(sam_frames._ENCODER_BYTES, "cpu", 3 * 2 * 4 * 2 * 64**2 - 1)
    few = encoded(sam, images)
    monkeypatch.setitem(sam_frames._ENCODER_BYTES, "cpu", 1)
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
    np.testing.assert_array_equal(sam_frames.to_input_frame(point_grid(4), crop), expected)


@pytest.mark.parametrize("size", [(64, 64), (64, 40), (50, 81), (130, 90)])
def test_logits_are_upsampled_as_sam_does(sam, draw_image, size):
    (crop,) = encoded(sam, [draw_image(*size)])
    low = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = sam.postprocess_masks(low[:, None], crop.input_size, size)[:, 0]
    assert torch.equal(sam_frames.upsample(low, crop, 64), expected)


def test_the_second_interpolation_is_left_out_where_it_changes_nothing(sam, draw_image, monkeypatch):
    interpolate, sizes = F.interpolate, []
    monkeypatch.setattr(F, "interpolate", lambda x, size, **more: sizes.append(size) or interpolate(x, size, **more))
    for size in [(64, 40), (50, 81)]:
        (crop,) = encoded(sam, [draw_image(*size)])
        sam_frames.upsample(torch.zeros(1, 32, 32), crop, 64)
    assert sizes.count((64, 64)) == 2
    assert (64, 40) not in sizes
    assert (50, 81) in sizes
