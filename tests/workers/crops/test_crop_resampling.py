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
from pseudoris.workers.crops.crops import plain_crop
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


def test_plain_and_masked_tiles_of_one_batch_equal_the_plain_definition():
    pixels, mask, image = build_image()
    x0, y0, x1, y1 = box = (5, 10, 68, 31)
    crops = scaled(image, [[build_tile(0, box, is_masked=True), build_tile(1, box)]], num_crops=2)
    region, kept = pixels[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    torch.testing.assert_close(crops[0], plain_crop(region, SIZE, mask=kept), rtol=0, atol=1e-5)
    torch.testing.assert_close(crops[1], plain_crop(region, SIZE), rtol=0, atol=1e-5)
    assert crops.is_contiguous()


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


def test_a_crop_that_nothing_was_added_to_is_fill():
    _, _, image = build_image()
    crops = scaled(image, [[build_tile(1, (0, 0, 9, 9))]], num_crops=2)
    assert torch.equal(crops[0], (torch.tensor(FILL) / 255).view(3, 1, 1).expand(3, SIZE, SIZE))


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


def test_outputs_that_are_not_wanted_read_nothing_and_change_no_other():
    spans, sides = np.array([[3, 40]]), np.array([50])
    whole = axis_taps(spans, sides, np.array([[0, 9]]), size=9)
    part = axis_taps(spans, sides, np.array([[4, 6]]), size=9)
    assert part.count[0].astype(bool).tolist() == [4 <= output < 6 for output in range(9)]
    expected = dense(whole, 0, 3, 37)
    np.testing.assert_array_equal(dense(part, 0, 3, 37)[4:6], expected[4:6])


def test_extents_name_the_outputs_and_pixels_that_are_read():
    # 4 pixels in a square of 16, halved: outputs 3 and 4 lie in them, 2 and 5 reach them.
    taps = axis_taps(np.array([[100, 104]]), np.array([16]), np.array([[0, 8]]), size=8)
    assert taps.outputs().tolist() == [[2, 6]]
    assert taps.pixels().tolist() == [[100, 104]]


def test_long_axes_sum_to_one_where_the_square_has_no_padding():
    taps = axis_taps(np.array([[0, 2_000_000]]), np.array([2_000_000]), np.array([[0, 224]]), size=224)
    for output in (0, 100, 223):
        at = taps.start[0, output]
        assert math.fsum(taps.weights[at : at + taps.count[0, output]]) == pytest.approx(1, abs=1e-5)


def sums(table, runs, weights):
    first, count, start = (np.array(column, dtype=np.int64) for column in zip(*runs, strict=True))
    return weighted_sums(table, first, count=count, start=start, weights=weights)


def test_a_run_is_the_weighted_sum_of_its_rows_and_an_empty_one_is_zero():
    table = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    weights = np.array([0.5, -1.0, 2.0, 0.25], dtype=np.float32)
    got = sums(table, [(3, 2, 1), (7, 0, 0), (16, 4, 0)], weights)
    torch.testing.assert_close(got[0], -table[3] + 2 * table[4])
    assert torch.equal(got[1], torch.zeros(6))
    torch.testing.assert_close(got[2], torch.from_numpy(weights) @ table[16:])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12), st.integers(0, 8)), min_size=1, max_size=40))
def test_a_run_has_the_same_bits_in_any_company(runs):
    table = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    weights = np.random.default_rng(0).random(20).astype(np.float32)
    together = sums(table, runs, weights)
    for number in {0, len(runs) // 2, len(runs) - 1}:
        assert torch.equal(sums(table, [runs[number]], weights)[0], together[number])
