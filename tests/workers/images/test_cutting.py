"""Crops added in any batches are the same sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.builders.crops import resized, runs_of
from tests.builders.images import random_pixels
from workers.images.cuts import Cut
from workers.images.cutting import CropSums
from workers.images.strips import ImageStrips

CPU = torch.device("cpu")
FILL = (123, 117, 104)
SIZE = 20  # No multiple of a band's rows.


def scaled(image, batches, *, num_crops):
    sums = CropSums(num_crops, SIZE, CPU)
    for batch in batches:
        sums.add(image, batch)
    return sums.scaled(torch.full((3,), 1 / 255), torch.tensor(FILL) / 255)


def build_image(height=50, width=70):
    pixels = random_pixels(height, width)
    mask = np.random.default_rng(1).random((height, width)) < 0.5
    return pixels, mask, ImageStrips(pixels, [runs_of(mask)], fill_rgb=FILL, device=CPU)


def build_cut(crop, box, *, is_masked=False):
    return Cut(crop=crop, mask=0, is_masked=is_masked, box=box, rows=(0, SIZE), columns=(0, SIZE))


def test_plain_and_masked_cuts_of_one_batch_equal_the_plain_definition():
    pixels, mask, image = build_image()
    x0, y0, x1, y1 = box = (5, 10, 68, 31)
    crops = scaled(image, [[build_cut(0, box, is_masked=True), build_cut(1, box)]], num_crops=2)
    region, kept = pixels[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    torch.testing.assert_close(crops[0], resized(region, SIZE, mask=kept), rtol=0, atol=1e-5)
    torch.testing.assert_close(crops[1], resized(region, SIZE), rtol=0, atol=1e-5)
    assert crops.is_contiguous()


def test_pieces_give_the_bits_of_the_whole_also_those_that_see_padding_alone():
    _, _, image = build_image()
    # Wide: the first and last rows of outputs are padding.
    cut = build_cut(0, (0, 20, 70, 27))
    pieces = [
        replace(cut, rows=(top, top + 5), columns=(left, left + 10)) for top in range(0, 20, 5) for left in (0, 10)
    ]
    whole = scaled(image, [[cut]], num_crops=1)
    assert torch.equal(scaled(image, [pieces], num_crops=1), whole)
    assert torch.equal(scaled(image, [[piece] for piece in reversed(pieces)], num_crops=1), whole)


def test_a_crop_that_nothing_was_added_to_is_fill():
    _, _, image = build_image()
    crops = scaled(image, [[build_cut(1, (0, 0, 9, 9))]], num_crops=2)
    assert torch.equal(crops[0], (torch.tensor(FILL) / 255).view(3, 1, 1).expand(3, SIZE, SIZE))
