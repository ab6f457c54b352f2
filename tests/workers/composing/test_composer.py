from dataclasses import replace

import pytest
from pydantic import ValidationError

from schemas.composing import ComposingConfig
from schemas.ids import mask_id
from schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from tests.workers.composing.builders import IMAGE_ID, composed, make_image, texts

CIRCLE = {"a photo of a circle": 8, "a photo of a dotted circle": 2}
DOTTED = {"a photo of a dotted circle": 8, "an image of a circle": 2}
STAR = {"a photo of a star": 10}
# Two circles side by side, a star below the right one.
TWO = make_image(((20, 60), DOTTED), ((80, 30), DOTTED), ((80, 80), STAR))


def test_two_masks_of_one_description_are_told_apart_by_place():
    assert texts(TWO, 0, kinds=["position"]) == {
        "the circle on the left",
        "the left of the two circles",
        "the leftmost circle",
    }
    assert texts(TWO, 1, kinds=["position"]) == {
        "the circle on the right",
        "the right of the two circles",
        "the rightmost circle",
    }
    # What nothing else is called needs no place.
    assert texts(TWO, 2) == set()


def test_a_relation_needs_an_anchor_that_its_own_words_single_out():
    assert texts(TWO, 1, kinds=["relation"]) == {"the circle above the star"}
    two_stars = make_image(((20, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR), ((20, 80), STAR))
    assert texts(two_stars, kinds=["relation"]) == set()
    # The left circle is above the star as well, for a lenient listener.
    near = make_image(((60, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR))
    assert texts(near, kinds=["relation"]) == set()


def test_what_is_nearly_aligned_is_not_told_apart():
    image = make_image(((48, 50), CIRCLE), ((52, 53), CIRCLE))
    assert texts(image, kinds=["position", "relation"]) == set()


def test_a_mask_that_may_be_a_rival_is_one_and_is_not_counted():
    doubtful = {"a photo of a circle": 1, "a photo of a moon": 9}
    image = make_image(((20, 30), CIRCLE), ((60, 30), CIRCLE), ((90, 30), doubtful))
    # The second is the rightmost that surely is a circle, but not if the third is one.
    assert texts(image, 1, kinds=["position"]) == set()
    assert texts(image, 0, kinds=["position"]) == {"the circle on the left", "the leftmost circle"}


def test_a_mask_of_doubtful_noun_or_unlike_it_is_not_spoken_of():
    unsure = {"a photo of a circle": 7, "a photo of a moon": 3}
    assert texts(make_image(((20, 30), unsure), ((80, 30), CIRCLE)), 0) == set()
    # The captioner says circle, the scorer sees a moon.
    image = make_image(((20, 30), {"a circle": 9, "a moon": 1}), ((80, 30), CIRCLE))
    looks = [replace(each, correctness=0.9) if each.text == "a moon" else each for each in image.expressions]
    assert texts(image, 0, kinds=["position"]) != set()
    assert texts(replace(image, expressions=tuple(looks)), 0) == set()
    # A scorer that does not say has no opinion.
    silent = [replace(each, correctness=None) for each in image.expressions]
    assert texts(replace(image, expressions=tuple(silent)), 0, kinds=["position"]) != set()


def test_qualities_part_masks_only_where_they_are_sure():
    plain = {"a photo of a plain circle": 10}
    image = make_image(((20, 30), DOTTED), ((50, 30), DOTTED), ((80, 30), plain))
    assert {"the left of the two dotted circles", "the leftmost dotted circle"} <= texts(image, 0, max_words=1) | texts(
        make_image(((40, 30), DOTTED), ((50, 60), DOTTED), ((20, 30), plain)), 0, max_words=1
    )
    assert not any("dotted" in text for text in texts(image, max_words=0))


def test_groups_are_all_that_a_phrase_is_true_of_and_absences_true_of_nothing():
    red = {"a photo of a red circle": 10}
    blue = {"a photo of a blue star": 10}
    image = make_image(((20, 30), red), ((80, 30), red), ((50, 80), blue))
    found = composed(image, kinds=["group", "none"])
    assert [(each.kind, each.text, each.target_mask_ids) for each in found] == [
        ("group", "the two circles", (mask_id(IMAGE_ID, 0), mask_id(IMAGE_ID, 1))),
        ("none", "the red star", ()),
        ("none", "the blue circle", ()),
    ]
    assert len(composed(image, kinds=["none"], max_per_image=1)) == 1


def test_what_is_composed_is_kept_without_draws_or_scores_and_says_who_wrote_it():
    for each in composed(TWO, kinds=["position", "relation", "group", "none"]):
        assert (each.source, each.kept, each.weight, each.samples) == (SOURCE_COMPOSER, True, 1.0, ())
        scores = (each.uniqueness, each.correctness, each.distinctiveness, each.rival_mask_id)
        assert scores == (None, None, None, None)
        assert each.head_noun in ("circle", "star")


def test_a_mask_has_at_most_as_many_as_are_asked_for_in_different_forms():
    for most in (1, 2, 3):
        found = [each for each in composed(TWO, max_per_mask=most) if each.target_mask_ids == (mask_id(IMAGE_ID, 0),)]
        assert len(found) == most


def test_composing_again_changes_nothing_and_neither_does_what_is_kept():
    first = composed(TWO)
    again = composed(replace(TWO, expressions=TWO.expressions))
    assert first == again
    all_kept = replace(TWO, expressions=tuple(replace(each, kept=True) for each in TWO.expressions))
    assert [each.text for each in composed(all_kept)] == [each.text for each in first]


def test_what_somebody_said_already_is_not_said_again():
    said = composed(TWO, max_per_mask=9)[0]
    by_a_person = replace(said, source=SOURCE_HUMAN)
    image = replace(TWO, expressions=(*TWO.expressions, by_a_person))
    assert said.text not in {
        each.text for each in composed(image, max_per_mask=9) if each.target_mask_ids == said.target_mask_ids
    }


def test_an_image_without_masks_or_draws_gets_nothing():
    assert composed(make_image()) == []
    assert composed(make_image(((20, 30), {}), ((80, 30), {}))) == []


def test_shares_that_would_say_yes_and_no_are_refused():
    with pytest.raises(ValidationError, match=r"max_noun 0.9 is not below min_noun 0.8"):
        ComposingConfig(max_noun=0.9)
    assert ComposingConfig(kinds=("relation", "group", "relation")).kinds == ("group", "relation")
