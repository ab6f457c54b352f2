"""How likely an expression is right, against the sum over all that the masks may be."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pseudoris.schemas.shard import SOURCE_COMPOSER, MaskRecord
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.likelihood import (
    SIDES,
    Likelihood,
    MaskPosition,
    doubtless_lead,
    inside_third,
    likelihood_of,
    maybe_lies,
    position_of,
    surely_lies,
)
from pseudoris.workers.composing.posterior import Evidence, Posterior, drawn_by_mask
from pseudoris.workers.masks import rle
from pseudoris.workers.noun_phrases import NounPhrase
from tests.builders.fitted import POSTERIOR
from tests.workers.composing.builders import make_image

STAR = NounPhrase("star")
SHARES = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5)


def view_of_stars(shares, **settings):
    """Masks that are stars so likely, from left to right."""
    weights = POSTERIOR.model_copy(update={"noun_share": 1.0, "noun_correctness": 0.0, **settings})
    evidence = [Evidence({"star": each, "x": 1 - each}, {"star": 0.0, "x": 0.0}, {}, (STAR,)) for each in shares]
    positions = [MaskPosition((n + 0.5) / len(shares), 0.5) for n in range(len(shares))]
    return Likelihood(Posterior(weights, evidence, np.ones(len(shares))), positions, ComposingConfig())


def expected(shares, is_right):
    """The probability of all ways to be stars or not in which an expression is right."""
    worlds = itertools.product((True, False), repeat=len(shares))
    return sum(
        math.prod(share if is_so else 1 - share for share, is_so in zip(shares, world, strict=True))
        for world in worlds
        if is_right(world)
    )


@given(SHARES, st.data())
def test_alone_is_the_sum_over_all_that_the_masks_may_be(shares, data):
    view = view_of_stars(shares, unseen=0.0)
    told_apart = data.draw(st.lists(st.booleans(), min_size=len(shares), max_size=len(shares)))
    found = view.log_right(0, STAR, 1.0 - np.array(told_apart, np.float64))
    fits = view.rivals(STAR).tolist()

    def is_right(world):
        return world[0] and not any(is_so and not apart for is_so, apart in zip(world[1:], told_apart[1:], strict=True))

    assert math.exp(found) == pytest.approx(expected(fits, is_right))


@given(SHARES)
def test_a_counted_row_is_the_sum_over_just_that_row(shares):
    view = view_of_stars(shares, unseen=0.0)
    row = np.array([1])
    found = view.log_counted(0, STAR, row, np.array([0.8]))
    fits = view.rivals(STAR).tolist()
    just_these = expected(fits, lambda world: world[0] and world[1] and not any(world[2:]))
    assert math.exp(found) == pytest.approx(0.8 * just_these)


def test_what_has_no_mask_counts_less_with_each_word_and_once_more_for_each_presupposed():
    view = view_of_stars([0.9, 0.1], unseen=0.1)
    red = NounPhrase("star", ("red",))
    assert [view.log_unseen(STAR), view.log_unseen(red), view.log_unseen(STAR, 2)] == pytest.approx([-0.1, -0.03, -0.2])


def test_a_counted_row_carries_the_risk_of_what_has_no_mask_once_more_for_each_member():
    at, places = np.array([1, 2]), np.array([0.8, 0.9])
    counted = [view_of_stars([0.9, 0.8, 0.7], unseen=each).log_counted(0, STAR, at, places) for each in (0.0, 0.1)]
    assert counted[0] - counted[1] == pytest.approx(0.1 * (1 + len(at)))


def test_only_draws_of_one_mask_are_evidence():
    image = make_image(((20, 50), {"a circle": 8}), ((80, 50), {"a star": 10}))
    drawn = image.expressions[0]
    composed = replace(drawn, source=SOURCE_COMPOSER)
    of_two = replace(drawn, target_mask_ids=(*drawn.target_mask_ids, "more"))
    more = replace(image, expressions=(*image.expressions, composed, of_two))
    assert drawn_by_mask(more) == drawn_by_mask(image)


def test_phrases_are_of_the_likeliest_noun_and_likely_enough_in_one_order_of_words():
    image = make_image(
        ((20, 50), {"a red star": 8, "a star": 4, "a small red star": 2, "a red small star": 2, "a heart": 1}),
        ((80, 50), {"a blue star": 9, "a star": 4}),
    )
    view = likelihood_of(image, ComposingConfig(min_first=0.3), POSTERIOR)
    assert [each.text for each in view.phrases[0]][:2] == ["star", "red star"]
    assert len({each.words for each in view.phrases[0]}) == len(view.phrases[0])
    assert {each.noun for each in view.phrases[0]} == {"star"}
    assert [each.text for each in view.phrases[1]] == ["star", "blue star"]
    # By themselves they are told apart by their colours.
    assert {mask: phrase.text for mask, (phrase, _) in view.anchors.items()} == {0: "red star", 1: "blue star"}


shares = st.floats(0, 1)
pairs = st.tuples(shares, shares, shares, shares, st.sampled_from([0.5, 1.0, 1.5]))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any))
def test_a_masks_place_is_the_mean_of_its_pixels(pixels):
    size = pixels.shape
    counts = rle.encode(torch.from_numpy(pixels[None]))
    mask = MaskRecord("m", 0, size, counts[0], rle.boxes(counts, size)[0], int(pixels.sum()))
    y, x = np.nonzero(pixels)
    place = position_of(mask)
    assert np.allclose((place.x, place.y), ((x.mean() + 0.5) / size[1], (y.mean() + 0.5) / size[0]))
    assert place.aspect == size[0] / size[1]


@given(pairs, st.sampled_from(SIDES))
def test_what_surely_lies_on_a_side_maybe_does_and_surely_not_on_the_opposite_one(pair, side):
    item, anchor = MaskPosition(*pair[:2], pair[4]), MaskPosition(*pair[2:])
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    if surely_lies(side, item, anchor):
        assert maybe_lies(side, item, anchor)
        assert not maybe_lies(opposite, item, anchor)
        assert surely_lies(opposite, anchor, item)


def test_steps_are_measured_in_pixels_whatever_the_picture_s_shape():
    # Of a picture twice as high as wide, a fifth of the height is two fifths of the width.
    anchor = MaskPosition(0.5, 0.5, 2.0)
    assert surely_lies("bottom", MaskPosition(0.8, 0.7, 2.0), anchor)
    assert surely_lies("right", MaskPosition(0.8, 0.7), MaskPosition(0.5, 0.5))


def test_a_lead_is_doubtless_from_about_the_gap_on_and_a_side_within_its_third():
    leads = doubtless_lead(np.array([-0.2, 0.0, 0.06, 0.08, 0.2]))
    assert leads[:2] == pytest.approx([0.0, 0.0], abs=0.01)
    assert leads[2] == pytest.approx(0.5)
    assert leads[3] > 0.8
    assert leads[4] > 0.999
    inside = [inside_third("left", MaskPosition(x, 0.5)) for x in (0.1, 1 / 3, 0.5)]
    assert inside == pytest.approx([1.0, 0.5, 0.0], abs=0.01)
    assert inside_third("bottom", MaskPosition(0.5, 0.9)) > 0.99
