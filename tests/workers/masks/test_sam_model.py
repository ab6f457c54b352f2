"""Point grids, crops, SAM's input and its logits equal segment_anything's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers import pass_sizes
from pseudoris.workers.masks import sam_model
from pseudoris.workers.masks.promptable import layer_grids
from pseudoris.workers.masks.sam_model import resized_size


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
