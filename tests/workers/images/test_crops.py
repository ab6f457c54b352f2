"""Crops against hand-computed values, torchvision's own transform, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from tests.builders.crops import padded_square
from tests.builders.images import random_pixels
from workers.images.crops import FILL_RGB, CropFormat, grow_box, make_crop, make_crops

RAW = CropFormat(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CLIP = CropFormat(size=16, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize(
    ("box", "scale", "expected"),
    [
        ((10, 20, 30, 40), 1.0, (10, 20, 30, 40)),
        ((10, 20, 30, 40), 1.1, (9, 19, 31, 41)),
        ((10, 20, 30, 40), 1.2, (8, 18, 32, 42)),
        # 5 * 1.1 / 2 = 2.75 to each side of 12.5: 9.75 down, 15.25 up.
        ((10, 20, 15, 25), 1.1, (9, 19, 16, 26)),
        ((0, 0, 10, 10), 1.2, (0, 0, 11, 11)),
        ((90, 90, 100, 100), 1.2, (89, 89, 100, 100)),
        ((0, 0, 100, 100), 1.2, (0, 0, 100, 100)),
        ((7, 7, 7, 12), 1.0, (7, 7, 8, 12)),
        ((100, 50, 100, 50), 1.2, (99, 50, 100, 51)),
    ],
)
def test_boxes_grow_about_their_centre_and_are_clipped(box, scale, expected):
    assert grow_box(box, scale=scale, image_size=(100, 100)) == expected


def test_growing_is_exact_where_floats_would_touch_a_pixel_more():
    assert math.floor(56 - 100 * 1.1 / 2) == 0
    assert grow_box((6, 6, 106, 106), scale=1.1, image_size=(200, 200)) == (1, 1, 111, 111)


@st.composite
def boxes_in_images(draw):
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    x0, y0 = draw(st.integers(0, width)), draw(st.integers(0, height))
    return (x0, y0, draw(st.integers(x0, width)), draw(st.integers(y0, height))), (height, width)


@given(case=boxes_in_images(), scale=st.sampled_from([1.0, 1.1, 1.2, 1.5, 4.0]))
def test_a_grown_box_lies_in_the_image_and_holds_the_old_one(case, scale):
    (x0, y0, x1, y1), (height, width) = case
    gx0, gy0, gx1, gy1 = grow_box((x0, y0, x1, y1), scale=scale, image_size=(height, width))
    assert 0 <= gx0 < gx1 <= width
    assert 0 <= gy0 < gy1 <= height
    assert gx0 <= x0
    assert gy0 <= y0
    assert gx1 >= x1
    assert gy1 >= y1
    # Rounding adds less than a pixel a side to the exact box, and the guard at most one pixel to an empty one.
    assert gx1 - gx0 <= max((x1 - x0) * scale + 2, 1)


def unresized(square):
    """A square (S, S, 3) uint8 as the crop of its own size."""
    return torch.from_numpy(square).permute(2, 0, 1) / 255


def cut(pixels, box, *, size, scale=1.0, mask=None, mean=RAW.mean, std=RAW.std):
    return make_crop(pixels, box, scale=scale, mask=mask, crop_format=CropFormat(size, mean, std))


def test_a_masked_crop_shows_the_mask_and_fills_the_rest():
    pixels = random_pixels(6, 8)
    mask = np.zeros((6, 8), dtype=bool)
    mask[1, 2] = mask[2, 3] = mask[3, 2] = True
    # 3 rows, 2 columns: of the single column of padding, all lies on the right.
    expected = np.empty((3, 3, 3), dtype=np.uint8)
    expected[:] = FILL_RGB
    expected[0, 0], expected[1, 1], expected[2, 0] = pixels[1, 2], pixels[2, 3], pixels[3, 2]
    torch.testing.assert_close(cut(pixels, (2, 1, 4, 4), size=3, mask=mask), unresized(expected), rtol=0, atol=1e-6)


def test_a_context_crop_masks_nothing_and_pads_centrally():
    pixels = random_pixels(6, 8)
    expected = np.empty((8, 8, 3), dtype=np.uint8)
    expected[:] = FILL_RGB
    expected[3:5] = pixels[2:4]
    torch.testing.assert_close(cut(pixels, (0, 2, 8, 4), size=8), unresized(expected), rtol=0, atol=1e-6)


def test_a_crop_is_the_grown_box_resized_and_normalised():
    pixels = random_pixels(40, 60)
    steps = [
        v2.ToDtype(torch.float32, scale=True),
        v2.Resize((16, 16), antialias=True),
        v2.Normalize(CLIP.mean, CLIP.std),
    ]
    # 20 x 10 pixels, grown by 1.2 to 24 x 12.
    square = torch.from_numpy(padded_square(pixels[9:21, 8:32])).permute(2, 0, 1)
    crop = make_crop(pixels, (10, 10, 30, 20), scale=1.2, mask=None, crop_format=CLIP)
    torch.testing.assert_close(crop, v2.Compose(steps)(square), rtol=0, atol=1e-5)


def test_the_fill_is_the_mean_colour_so_it_is_nearly_zero_after_normalisation():
    mask = np.zeros((1, 10, 10), dtype=bool)
    mask[0, 4:6, 4:6] = True
    crop = make_crops(
        np.zeros((10, 10, 3), np.uint8), mask, boxes_xyxy_px=np.array([[0, 0, 10, 10]]), scale=None, crop_format=CLIP
    )
    assert crop[0, :, 0, 0].abs().max() < 0.01
    assert crop[0, :, 8, 8].max() < -1


@pytest.mark.parametrize(("column", "expected"), [(0, [3 / 7, 0.0]), (1, [3 / 7, 1 / 7])])
@pytest.mark.parametrize("is_turned", [False, True])
def test_halving_averages_with_the_triangle_filter(column, expected, is_turned):
    # Antialiased bilinear at factor 2: taps 1, 3, 3, 1; what is cut off at the border is left out of the sum.
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[:, column] = 255
    crop = cut(pixels.transpose(1, 0, 2) if is_turned else pixels, (0, 0, 4, 4), size=2)[0]
    torch.testing.assert_close(crop[:, 0] if is_turned else crop[0], torch.tensor(expected))


def test_a_mask_of_one_pixel_gives_a_crop_of_one_colour():
    pixels = random_pixels(5, 5)
    mask = np.zeros((1, 5, 5), dtype=bool)
    mask[0, 4, 4] = True
    box = np.array([[4, 4, 5, 5]])
    crop = make_crops(pixels, mask, boxes_xyxy_px=box, scale=None, crop_format=RAW)[0]
    expected = torch.from_numpy(pixels[4, 4] / np.float32(255)).view(3, 1, 1).expand(3, 8, 8)
    torch.testing.assert_close(crop, expected)


@settings(max_examples=30, deadline=None)
@given(case=boxes_in_images(), scale=st.sampled_from([None, 1.0, 1.2]))
def test_any_box_gives_a_finite_crop_that_does_not_depend_on_its_neighbours(case, scale):
    box, (height, width) = case
    pixels = random_pixels(height, width)
    masks = np.random.default_rng(1).random((2, height, width)) < 0.5
    both = np.array([box, (0, 0, width, height)])
    crops = make_crops(pixels, masks, boxes_xyxy_px=both, scale=scale, crop_format=CLIP)
    alone = make_crops(pixels, masks[:1], boxes_xyxy_px=both[:1], scale=scale, crop_format=CLIP)
    assert crops.dtype == torch.float32
    assert crops.shape == (2, 3, 16, 16)
    assert torch.isfinite(crops).all()
    assert torch.equal(crops[0], alone[0])


def test_no_masks_give_no_crops():
    none = make_crops(
        random_pixels(), np.zeros((0, 24, 32), bool), boxes_xyxy_px=np.zeros((0, 4), int), scale=None, crop_format=RAW
    )
    assert none.shape == (0, 3, 8, 8)


def test_masked_crops_refuse_to_work_without_fitting_masks():
    boxes = np.array([[0, 0, 2, 2]])
    with pytest.raises(ValueError, match="need masks, got None"):
        make_crops(random_pixels(), None, boxes_xyxy_px=boxes, scale=None, crop_format=RAW)
    with pytest.raises(ValueError, match=r"a mask has shape \(3, 3\); the image asks for \(24, 32\)"):
        make_crops(random_pixels(), np.ones((1, 3, 3), bool), boxes_xyxy_px=boxes, scale=None, crop_format=RAW)
    with pytest.raises(ValueError, match="zip"):
        make_crops(random_pixels(), np.ones((2, 24, 32), bool), boxes_xyxy_px=boxes, scale=None, crop_format=RAW)
