"""What each mask was called, against all the others."""

from dataclasses import replace

from pseudoris.schemas.composer_settings import ComposingConfig
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.workers.composing import english
from pseudoris.workers.composing.image_view import is_drawn, view_of
from pseudoris.workers.composing.language import NounPhrase
from tests.workers.composing.builders import make_image

CIRCLE, STAR = {"a circle": 8, "a dotted circle": 2}, {"a star": 10}
DOTTED = {"a dotted circle": 9, "a circle": 1}


def view(*drawn, **settings):
    image = make_image(*(((20 + 20 * n, 50), each) for n, each in enumerate(drawn)))
    return view_of(image, english, ComposingConfig.model_validate(settings))


def rows(view, mask):
    return [(row.phrase.text, row.rivals, row.is_counted) for row in view.rows[mask]]


def test_a_mask_has_a_row_for_each_phrase_that_surely_is_true_of_it_fewest_words_first():
    found = view(DOTTED, CIRCLE, STAR)
    # The second may be dotted: a fifth of its draws say so.
    assert rows(found, 0) == [("circle", (1,), True), ("dotted circle", (1,), False)]
    assert rows(found, 1) == [("circle", (0,), True)]
    assert rows(found, 2) == [("star", (), True)]


def test_phrases_of_more_words_than_allowed_are_no_rows():
    drawn = {"a small dotted circle": 10}
    assert [text for text, *_ in rows(view(drawn), 0)] == ["circle", "small dotted circle"]
    assert [text for text, *_ in rows(view(drawn, max_words=1), 0)] == ["circle"]


def test_anchors_are_masks_that_a_sure_phrase_singles_out():
    found = view(DOTTED, {"a circle": 10}, STAR, {"a heart": 9, "a star": 1})
    # The heart is one in a tenth of its draws; the star may be that heart's rival.
    assert {mask: phrase.text for mask, phrase in found.anchors.items()} == {0: "dotted circle"}
    assert set(view(DOTTED, {"a circle": 10}, STAR, {"a heart": 10}).anchors) == {0, 2, 3}


def test_what_fits_nothing_may_be_true_of_no_mask():
    found = view(DOTTED, STAR)
    dotted_star = NounPhrase("dotted star", "star", frozenset({"dotted"}))
    assert found.fits_nothing(dotted_star)
    assert not found.fits_nothing(NounPhrase("circle", "circle", frozenset()))


def test_only_draws_of_one_mask_are_looked_at():
    image = make_image(((20, 50), CIRCLE), ((80, 50), STAR))
    drawn, other = image.expressions[0], image.expressions[-1]
    composed = replace(drawn, source=SOURCE_COMPOSER, text="a heart", head_noun="heart")
    of_two = replace(drawn, text="a heart", head_noun="heart", target_mask_ids=(*drawn.target_mask_ids, "more"))
    assert [is_drawn(each) for each in (drawn, other, composed, of_two)] == [True, True, False, False]
    more = replace(image, expressions=(*image.expressions, composed, of_two))
    settings = ComposingConfig()
    assert view_of(more, english, settings) == view_of(image, english, settings)
