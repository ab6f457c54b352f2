"""How likely an expression is right, against the sum over all that the masks may be."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.likelihood import Likelihood, MaskPosition, likelihood_of
from pseudoris.workers.composing.posterior import Evidence, Posterior, drawn_by_mask
from pseudoris.workers.english import NounPhrase
from tests.builders.fitted import POSTERIOR
from tests.workers.composing.builders import make_image

STAR = NounPhrase("star", "star", frozenset())
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
    red = NounPhrase("red star", "star", frozenset({"red"}))
    assert [view.log_unseen(STAR), view.log_unseen(red), view.log_unseen(STAR, 2)] == pytest.approx([-0.1, -0.03, -0.2])


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
