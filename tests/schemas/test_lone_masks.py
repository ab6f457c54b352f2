"""What is kept of a mask that is alone in its image, against what the authors' loader draws from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.keep_rule import lone_draws


def draws(lone_masks, correctness, counts, masks=None):
    masks = [0] * len(counts) if masks is None else masks
    return lone_draws(lone_masks, masks=masks, correctness=np.array(correctness, float), counts=counts).tolist()


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_the_better_half_is_what_the_authors_loader_draws_from(counts, seed):
    if sum(counts) < 2:
        return
    # With equal ones: captions with one head noun have one correctness.
    correctness = np.random.default_rng(seed).integers(0, 4, len(counts)) / 10
    # Its list holds each draw, and it sorts and cuts the list.
    rows = np.repeat(np.arange(len(counts)), counts)
    better = np.argsort(correctness[rows], kind="stable")[::-1][: len(rows) // 2]
    assert draws("better_half", correctness, counts) == np.bincount(rows[better], minlength=len(counts)).tolist()


def test_each_mask_has_a_half_of_its_own_whatever_the_order_of_the_rows():
    masks = ["b", "a", "b", "a", "b", "b"]
    assert draws("better_half", [0.1, 0.9, 0.4, 0.2, 0.3, 0.2], [1] * 6, masks) == [0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("correctness", "counts", "kept"),
    [
        ([0.5], [1], [1]),
        ([0.5], [0], [1]),
        ([0.5], [44], [22]),
        ([math.nan, 0.1], [3, 1], [1, 1]),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1], [0, 0, 1, 1]),
        ([0.31, 0.31, 0.31, 0.28], [10, 12, 11, 11], [0, 11, 11, 0]),
        ([0.2, 0.9], [20, 24], [0, 22]),
    ],
)
def test_the_half_counts_draws_keeps_one_at_least_and_takes_the_last_of_equals(correctness, counts, kept):
    assert draws("better_half", correctness, counts) == kept


def test_keep_keeps_every_draw_and_drop_none():
    assert draws("keep", [0.1, math.nan], [3, 0]) == [3, 1]
    assert draws("drop", [0.1, math.nan], [3, 0]) == [0, 0]
