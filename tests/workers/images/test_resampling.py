"""Taps against the triangle filter computed pixel by pixel, and sums that depend on nothing beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.images.resampling import axis_taps, weighted_sums


def plain_weights(length, side, size):
    """(size, length) float64: what each pixel of a padded span weighs in each output, one after another."""
    before = (side - length) // 2
    scale = side / size
    reach = max(scale, 1.0)
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
)
def test_taps_are_the_triangle_filter_of_the_padded_square(crops, size):
    spans = np.array([(start, start + length) for start, length, _ in crops])
    sides = np.array([length + padding for _, length, padding in crops])
    taps = axis_taps(spans, sides, np.tile([0, size], (len(crops), 1)), size=size)
    for crop, (start, length, _) in enumerate(crops):
        expected = plain_weights(length, int(sides[crop]), size)
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
