"""Draws become probabilities of nouns, words and objects; these, how likely an expression is right."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pseudoris.primitives.noun_phrases import NounPhrase
from pseudoris.schemas.fitted import NounRelations
from pseudoris.schemas.shard import SOURCE_COMPOSER, CaptionSample, ExpressionRecord
from pseudoris.schemas.stage_settings import ComposingConfig
from pseudoris.workers.composing.likelihood import (
    SIDES,
    Likelihood,
    MaskPosition,
    doubtless_lead,
    inside_share,
    maybe_lies,
    position_of,
    surely_lies,
)
from pseudoris.workers.composing.posterior import (
    Evidence,
    Posterior,
    by_names,
    drawn_by_mask,
    evidence_of,
    is_object,
    nested_shares,
    nouns_of,
    object_features,
    substitutes,
)
from tests.builders.fitted import POSTERIOR
from tests.builders.scene_runs import mask_records
from tests.workers.composing.builders import make_image, make_mask

PLAIN = POSTERIOR.model_copy(
    update={"noun_share": 1.0, "noun_correctness": 0.0, "word_bias": 0.0, "word_against": 1.0, "word_share": 0.0}
)


def evidence(nouns, words=(), correctness=()):
    return Evidence(dict(nouns), {**dict.fromkeys(dict(nouns), 0.0), **dict(correctness)}, dict(words), ())


def test_nouns_are_a_softmax_of_shares_and_correctness():
    said = evidence({"star": 0.6, "heart": 0.4}, correctness={"star": 0.5, "heart": 0.7})
    assert nouns_of(said, PLAIN) == pytest.approx({"star": 0.6, "heart": 0.4}, abs=1e-3)
    looks = nouns_of(said, PLAIN.model_copy(update={"noun_correctness": 10.0}))
    # 0.4 · e² against 0.6.
    assert looks["heart"] == pytest.approx(0.4 * math.e**2 / (0.4 * math.e**2 + 0.6), abs=1e-3)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        # Dotted is said with red, so it is no other colour; no caption has both blue and dotted.
        (
            "red star|blue star|dotted star|red dotted star|small heart|star",
            {"red": {"blue"}, "blue": {"red", "dotted"}, "dotted": {"blue"}},
        ),
        ("red star|blue heart", {}),
        ("small red star|small blue star", {"red": {"blue"}, "blue": {"red"}}),
    ],
)
def test_words_said_in_one_place_and_never_together_replace_each_other(said, found):
    phrases = [NounPhrase(each.split()[-1], tuple(each.split()[:-1])) for each in said.split("|")]
    assert substitutes(phrases) == found


def test_a_word_does_not_replace_one_that_says_more():
    found = substitutes(NounPhrase("man", (), (each,)) for each in ("in red", "in a red shirt", "with a hat"))
    assert "red shirt" not in found["red"]


def test_a_mask_inside_another_one_or_of_poor_scores_is_less_likely_an_object():
    good = {"predicted_iou": 0.9, "stability_score": 0.9}
    alone, whole, part = (make_mask(n, *at) for n, at in enumerate((((80, 80),), ((30, 30), 40), ((30, 30), 10))))
    masks = [replace(mask, **good) for mask in (alone, whole, part)]
    poor = replace(alone, predicted_iou=0.6, stability_score=0.9)
    assert object_features(masks)[:, 2].tolist() == [0.0, 10 * 10 / (40 * 40), 0.5]
    likely = is_object([*masks[:3]], POSTERIOR)
    assert likely[0] > likely[1] > likely[2]
    assert is_object([poor], POSTERIOR)[0] < likely[0]
    # Given, not proposed: nobody doubts it.
    assert is_object([alone], POSTERIOR).tolist() == [1.0]
    assert is_object([], POSTERIOR).shape == (0,)
    # A score of 1, or one that numbers above 1, has log-odds all the same.
    assert np.isfinite(object_features([replace(alone, predicted_iou=1.02, stability_score=1.0)])).all()


def test_a_part_of_a_mask_of_another_noun_stays_an_object():
    good = {"predicted_iou": 0.9, "stability_score": 0.9}
    whole, part, twin = (replace(make_mask(n, (30, 30), size), **good) for n, size in enumerate((40, 10, 40)))
    weights = POSTERIOR.model_copy(update={"object_overlap": 0.0, "object_nested": 1.0})
    star, heart = evidence({"star": 1.0}), evidence({"heart": 1.0})
    assert nested_shares([whole, part, twin], [star, star, star]).tolist() == [0.0, 1.0, 1.0]
    both, own = (is_object([whole, part], weights, [star, each]) for each in (star, heart))
    assert both[0] == own[0] == own[1] > 0.9
    assert both[1] < 0.01


NAMES = NounRelations(same=(("man", "guy"), ("person", "someone")), wider={"person": ("man", "woman")})


def test_names_of_one_thing_support_each_other_and_a_wider_name_is_true_of_all():
    said = evidence({"man": 0.3, "guy": 0.3, "person": 0.1, "someone": 0.1, "dog": 0.2})
    phrases = (NounPhrase("person", ("tall",)), NounPhrase("guy", ("tall",)), NounPhrase("dog"))
    found = by_names(replace(said, phrases=(*phrases, NounPhrase("someone", ("old",)))), NAMES)
    assert found.nouns == pytest.approx({"man": 0.75, "dog": 0.25})
    assert found.phrases == (NounPhrase("man", ("tall",)), NounPhrase("dog"), NounPhrase("man", ("old",)))
    weights = PLAIN.model_copy(update={"names": NAMES})
    both = [by_names(each, NAMES) for each in (said, evidence({"woman": 1.0}), evidence({"person": 1.0}))]
    view = Posterior(weights, both, np.ones(3))
    person, guy, woman = (view.fits(NounPhrase(noun)) for noun in ("person", "guy", "woman"))
    assert person[1] == person[2] == pytest.approx(1.0)
    assert guy == pytest.approx(view.fits(NounPhrase("man")))
    # Who is a "person" alone may be a woman: she is neither there nor absent.
    assert 0.4 < woman[2] < 0.6


def test_a_stray_narrower_noun_names_no_mask_that_has_a_wider_name():
    said = evidence({"person": 0.95, "man": 0.03, "woman": 0.02})
    assert by_names(said, NAMES).nouns == pytest.approx(said.nouns)
    view = Posterior(PLAIN.model_copy(update={"names": NAMES}), [by_names(said, NAMES)], np.ones(1))
    person, man = (view.fits(NounPhrase(noun))[0] for noun in ("person", "man"))
    assert person == pytest.approx(1.0)
    assert man < 0.6


DRAW = CaptionSample("masked", "top_p", None, 0.9, -2.0)


def said(text, count, noun=None, *, score=None, correctness=None):
    return ExpressionRecord(("m",), text, (DRAW,) * count, head_noun=noun, caption_score=score, correctness=correctness)


def test_nouns_are_shares_of_what_names_one_and_words_of_what_is_a_noun_phrase():
    rows = [said("red dog", 6, "dog", correctness=0.8), said("cat", 2, "cat"), said("it", 9)]
    found = evidence_of([*rows, said("dog is running", 2, "dog", correctness=0.8)], "draws")
    assert (found.nouns, found.words) == ({"cat": 0.2, "dog": 0.8}, {"red": 0.6, "running": 0.2})
    assert found.correctness == {"dog": 0.8, "cat": 0.0}
    assert [each.text for each in found.phrases] == ["red dog", "cat", "running dog"]


def test_what_is_said_of_several_is_evidence_and_names_no_mask():
    found = evidence_of([said("two red dogs", 4, "dogs"), said("dogs", 1, "dogs")], "draws")
    assert (found.words, found.phrases) == ({"red": 0.8}, ())


def test_probabilities_count_in_place_of_draws():
    rows = [said("dog", 1, "dog", score=math.log(0.3)), said("cat", 9, "cat", score=math.log(0.1))]
    assert evidence_of(rows, "probability").nouns == pytest.approx({"cat": 0.25, "dog": 0.75})
    assert evidence_of(rows, "draws").nouns == pytest.approx({"cat": 0.9, "dog": 0.1})
    # A score far below what a float's exponential holds is a share of the likeliest all the same.
    low = [said("dog", 1, "dog", score=-900.0), said("cat", 1, "cat", score=-900.0)]
    assert evidence_of(low, "probability").nouns == {"cat": 0.5, "dog": 0.5}


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


shares = st.floats(0, 1)
pairs = st.tuples(shares, shares, shares, shares, st.sampled_from([0.5, 1.0, 1.5]))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any))
def test_a_masks_place_is_the_mean_of_its_pixels(pixels):
    size = pixels.shape
    y, x = np.nonzero(pixels)
    place = position_of(*mask_records("m", pixels[None]))
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
    leads = doubtless_lead(np.array([-0.2, 0.06, 0.2]))
    assert leads == pytest.approx([0.0, 0.5, 1.0], abs=0.01)
    inside = [inside_share("left", MaskPosition(x, 0.5)) for x in (0.1, 1 / 3, 0.5)]
    assert inside == pytest.approx([1.0, 0.5, 0.0], abs=0.01)
    assert inside_share("bottom", MaskPosition(0.5, 0.9)) > 0.99
