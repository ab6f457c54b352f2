"""Crops have the same bits in any batches; taps equal the triangle filter, computed pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.workers.crops.crop_resampling import CropAccumulator, axis_taps, weighted_sums
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


def plain_weights(length, side, size, *, has_antialiasing):
    """(size, length) float64: what each pixel of a padded span weighs in each output, one after another."""
    before = (side - length) // 2
    scale = side / size
    reach = max(scale, 1.0) if has_antialiasing else 1.0
    weights = np.zeros((size, side))
    for output in range(size):
        centre = (output + 0.5) * scale
        for pixel in range(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), side)):
            weights[output, pixel] = max(1 - abs(pixel + 0.5 - centre) / reach, 0)
    return (weights / weights.sum(axis=1, keepdims=True))[:, before : before + length]


def dense(taps, crop, start, length):
    """The taps of one crop as a matrix like that of `plain_weights`."""
    weights = np.zeros((taps.count.shape[1], length))
    for output, (first, count, at) in enumerate(zip(taps.first[crop], taps.count[crop], taps.start[crop], strict=True)):
        weights[output, first - start : first - start + count] = taps.weights[at : at + count]
    return weights


@settings(max_examples=60)
@given(
    crops=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 80), st.integers(0, 60)), min_size=1, max_size=4),
    size=st.integers(1, 40),
    has_antialiasing=st.booleans(),
)
def test_taps_are_the_triangle_filter_of_the_padded_square(crops, size, has_antialiasing):
    spans = np.array([(start, start + length) for start, length, _ in crops])
    sides = np.array([length + padding for _, length, padding in crops])
    wanted = np.tile([0, size], (len(crops), 1))
    taps = axis_taps(spans, sides, wanted, size=size, has_antialiasing=has_antialiasing)
    for crop, (start, length, _) in enumerate(crops):
        expected = plain_weights(length, int(sides[crop]), size, has_antialiasing=has_antialiasing)
        np.testing.assert_allclose(dense(taps, crop, start, length), expected, rtol=0, atol=1e-6)


def test_long_axes_sum_to_one_where_the_square_has_no_padding():
    taps = axis_taps(np.array([[0, 2_000_000]]), np.array([2_000_000]), np.array([[0, 224]]), size=224)
    for output in (0, 100, 223):
        at = taps.start[0, output]
        assert math.fsum(taps.weights[at : at + taps.count[0, output]]) == pytest.approx(1, abs=1e-5)


def sums(table, runs, weights):
    first, count, start = (np.array(column, dtype=np.int64) for column in zip(*runs, strict=True))
    return weighted_sums(table, first, count=count, start=start, weights=weights)
