"""What SAM's modules say to prompts, held to `SamPredictor`."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from workers.masks import prompting
from workers.masks.grids import point_grid

KEEP_ALL = 0.0


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (300, 200), (33, 7)])
def test_the_image_is_resized_as_sam_does(draw_image, size):
    image = draw_image(*size)
    np.testing.assert_array_equal(prompting.resize_for_sam(image, 64), ResizeLongestSide(64).apply_image(image))


def test_a_ratio_beyond_sams_keeps_one_pixel(draw_image):
    assert prompting.resize_for_sam(draw_image(1, 5000), 64).shape == (1, 64, 3)


def predicted(sam, image, *, min_predicted_iou=KEEP_ALL, dtype=torch.float32):
    with torch.inference_mode():
        crop = prompting.encode_crop(sam, image, dtype)
        points = prompting.to_input_frame(point_grid(4), crop)
        low, iou = prompting.predict_masks(sam, crop, points, min_predicted_iou=min_predicted_iou, dtype=dtype)
        return low, iou, prompting.upsample(low, crop, sam.image_encoder.img_size)


def expected(sam, image):
    predictor = SamPredictor(sam)
    with torch.inference_mode():
        predictor.set_image(image)
        points = predictor.transform.apply_coords(point_grid(4) * np.array(image.shape[1::-1]), image.shape[:2])
        labels = torch.ones(len(points), 1, dtype=torch.int)
        masks, iou, low = predictor.predict_torch(torch.from_numpy(points)[:, None], labels, return_logits=True)
    return low.flatten(0, 1), iou.flatten(), masks.flatten(0, 1)


@pytest.mark.parametrize("size", [(64, 64), (50, 81), (130, 90)])
def test_logits_and_predicted_iou_are_sams(sam, draw_image, size):
    image = draw_image(*size)
    for ours, theirs in zip(predicted(sam, image), expected(sam, image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_filter_by_predicted_iou_drops_before_upscaling_what_it_would_drop_after(sam, draw_image):
    image = draw_image(50, 81)
    low, iou, _ = expected(sam, image)
    threshold = float(iou.quantile(0.9))
    ours_low, ours_iou, _ = predicted(sam, image, min_predicted_iou=threshold)
    is_kept = iou > threshold
    assert 1 < is_kept.sum() < len(iou) / 4
    torch.testing.assert_close(ours_iou, iou[is_kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_low, low[is_kept], rtol=1e-5, atol=1e-5)


def test_a_threshold_that_nothing_passes_gives_empty_logits(sam, draw_image):
    low, iou, masks = predicted(sam, draw_image(50, 81), min_predicted_iou=9.0)
    assert (low.shape, iou.shape, masks.shape) == ((0, 32, 32), (0,), (0, 50, 81))


def test_bfloat16_gives_nearly_the_same_masks(sam, draw_image):
    image = draw_image(64, 64)
    _, iou, masks = predicted(sam, image)
    _, coarse_iou, coarse = predicted(sam, image, dtype=torch.bfloat16)
    assert coarse.dtype == torch.float32
    assert (masks > 0).any()
    assert ((masks > 0) == (coarse > 0)).float().mean() > 0.97
    assert (iou - coarse_iou).abs().max() < 0.05
    assert not torch.equal(masks, coarse), "bfloat16 was asked for"
