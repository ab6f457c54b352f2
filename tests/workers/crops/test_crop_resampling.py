"""Crops have the same bits in any batches; taps equal the triangle filter, computed pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pseudoris.workers.crops.crop_resampling import CropAccumulator
from pseudoris.workers.crops.crop_tiles import CropTile, TiledImage
from tests.builders.crops import runs_of
from tests.builders.images import random_pixels

CPU = torch.device("cpu")
FILL = (123, 117, 104)
SIZE = 20  # No multiple of a band's rows.


def scaled(image, batches, *, num_crops):
    sums = CropAccumulator(num_crops, SIZE, CPU)
    for batch in batches:
        sums.add(image, batch)
    return sums.scaled(torch.full((3,), 1 / 255), torch.tensor(FILL) / 255)


def build_image(height=50, width=70):
    pixels = random_pixels(height, width)
    mask = np.random.default_rng(1).random((height, width)) < 0.5
    return pixels, mask, TiledImage(pixels, [runs_of(mask)], fill_rgb=FILL, device=CPU)


def build_tile(crop, box, *, is_masked=False):
    return CropTile(crop=crop, mask=0, is_masked=is_masked, box=box, rows=(0, SIZE), columns=(0, SIZE))


def test_pieces_give_the_bits_of_the_whole_also_those_that_see_padding_alone():
    _, _, image = build_image()
    # Wide: the first and last rows of outputs are padding.
    tile = build_tile(0, (0, 20, 70, 27))
    pieces = [
        replace(tile, rows=(top, top + 5), columns=(left, left + 10)) for top in range(0, 20, 5) for left in (0, 10)
    ]
    whole = scaled(image, [[tile]], num_crops=1)
    assert torch.equal(scaled(image, [pieces], num_crops=1), whole)
    assert torch.equal(scaled(image, [[piece] for piece in reversed(pieces)], num_crops=1), whole)
