"""Draws: decided by what they are for, uniform, and the same on every machine."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.primitives.counter_rng import (
    draw_below,
    draw_texts,
    draw_texts_by_weight,
    draw_weighted_texts,
    draws,
    key_of,
    permutation,
)

TEXTS = ["the cat", "a cat", "the left cat", "a grey one", "the animal"]


COUNTS = [1, 20, 9, 2, 12]
WEIGHTS = [0.9, 0.05, 0.3, 0.5, 0.01]
KEY = (0, "2c26b46b68ffc68f", 3, "masked", "top_k=5")


def test_numbers_are_golden():
    # A resumed epoch meets the numbers of the version that began it, and a resumed run its draws.
    draw = {"seed": 1, "epoch": 2, "mask_id": "m-0000"}
    assert key_of("shards", 0, 7) == 0x7972A59044359908
    assert permutation(5, 8).tolist() == [3, 4, 2, 5, 0, 7, 1, 6]
    assert [draw_below(5, counter, 1_000) for counter in range(4)] == [386, 752, 232, 99]
    assert draw_texts(TEXTS, 2, **draw) == [3, 0]
    assert draw_weighted_texts(TEXTS, COUNTS, 6, **draw) == [4, 1, 1, 4, 1, 4]
    assert draw_texts_by_weight(TEXTS, WEIGHTS, 8, **draw) == [0, 3, 0, 0, 0, 3, 3, 2]
    assert draw_texts_by_weight(TEXTS[:1], [0.1], 3, **draw) == [0, 0, 0]
    assert draw_texts_by_weight(TEXTS, WEIGHTS, None, **draw) == [0, 1, 2, 3, 4]
    assert draws([KEY], 3).tolist() == [[0.7735894092916366, 0.41775520553997136, 0.8508669253851227]]


@given(st.integers(0, 2**64 - 1), st.integers(0, 200))
def test_a_permutation_holds_each_number_once_and_follows_the_scalar_generator(key, size):
    order = permutation(key, size)
    assert sorted(order.tolist()) == list(range(size))
    words = [draw_below(key, counter, 2**64) for counter in range(size)]
    assert order.tolist() == sorted(range(size), key=lambda at: (words[at], at))


def test_a_text_that_is_filtered_away_changes_only_the_draws_that_held_it():
    for mask in range(100):
        draw = {"seed": 0, "epoch": 0, "mask_id": f"m-{mask:04d}"}
        (before,) = draw_texts(TEXTS, 1, **draw)
        (after,) = draw_texts(TEXTS[:-1], 1, **draw)
        assert after == before or before == 4


DRAWS = {
    "alike": ([1] * 5, lambda texts, _, **draw: draw_texts(texts, 1, **draw)),
    "occurrence": (COUNTS, lambda texts, counts, **draw: draw_weighted_texts(texts, counts, 1, **draw)),
    "weight": (WEIGHTS, lambda texts, weights, **draw: draw_texts_by_weight(texts, weights, 1, **draw)),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_text_is_drawn_as_often_as_its_share_says_in_whatever_order_the_rows_are(kind):
    shares, draw = DRAWS[kind]
    masks, drawn = 4_000, Counter[int]()
    for mask in range(masks):
        place = {"seed": 0, "epoch": mask % 10, "mask_id": f"m-{mask:04d}"}
        (at,) = draw(TEXTS, shares, **place)
        assert draw(TEXTS[::-1], shares[::-1], **place) == [4 - at]
        drawn[at] += 1
    for at, each in enumerate(shares):
        share = each / sum(shares)
        # Five standard deviations.
        assert abs(drawn[at] - masks * share) < 5 * (masks * share * (1 - share)) ** 0.5


def test_by_weight_neither_the_order_of_rows_nor_the_scale_of_weights_matters_and_less_of_one_moves_to_others():
    draw = {"num_drawn": 200, "seed": 3, "epoch": 1, "mask_id": "m-0001"}
    drawn = draw_texts_by_weight(TEXTS, WEIGHTS, **draw)
    assert [4 - at for at in draw_texts_by_weight(TEXTS[::-1], WEIGHTS[::-1], **draw)] == drawn
    assert draw_texts_by_weight(TEXTS, [64 * each for each in WEIGHTS], **draw) == drawn
    lower = draw_texts_by_weight(TEXTS, [0.6, *WEIGHTS[1:]], **draw)
    changed = {before for before, after in zip(drawn, lower, strict=True) if before != after}
    assert changed == {0}


def test_a_draw_depends_neither_on_its_neighbours_nor_on_how_many_follow():
    other = (5, "aa", 0, "masked", "top_k=5")
    assert np.array_equal(draws([other, KEY], 30)[1, :9], draws([KEY], 9)[0])
