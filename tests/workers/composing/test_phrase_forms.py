"""Forms of an expression hold with a margin, change from mask to mask, and say nothing where a phrase alone does."""

import pytest

from pseudoris.schemas.composer_settings import ComposingConfig
from pseudoris.workers.composing import english
from pseudoris.workers.composing.image_view import view_of
from pseudoris.workers.composing.phrase_forms import absent_expressions, expressions_of, group_expressions
from tests.workers.composing.builders import make_image

CIRCLE, STAR = {"a circle": 10}, {"a star": 10}
RED_CIRCLE, BLUE_STAR = {"a red circle": 10}, {"a blue star": 10}
ALL = ("position", "relation", "group", "none")


def view(*masks, **settings):
    return view_of(make_image(*masks), english, ComposingConfig.model_validate({"kinds": ALL, **settings}))


def row_of(count, drawn):
    """That many masks from left to right."""
    return [((8 + 84 * n // (count - 1), 50), drawn) for n in range(count)]


@pytest.mark.parametrize(
    ("count", "mask", "expected"),
    [
        (2, 0, {"the left of the two circles", "the leftmost circle", "the circle on the left"}),
        (3, 1, {"the second circle from the left"}),
        # Of four nobody says "of the four", and the next one is too near the left third.
        (4, 0, {"the leftmost circle"}),
    ],
)
def test_positions_of_a_row(count, mask, expected):
    found = view(*row_of(count, CIRCLE), max_per_mask=9)
    said = {each.text for tail in range(256) for each in expressions_of(found, mask, f"mask-{tail}")}
    assert said == expected


def test_the_first_form_changes_from_mask_to_mask_and_is_the_same_for_one():
    found = view(*row_of(2, CIRCLE), max_per_mask=1)
    first = [expressions_of(found, 0, f"mask-{tail}")[0].text for tail in range(32)]
    assert len(set(first)) > 1
    assert first == [expressions_of(found, 0, f"mask-{tail}")[0].text for tail in range(32)]


def test_a_relation_says_its_kind_and_needs_rivals_or_a_quality():
    found = view(((20, 60), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR), kinds=("relation",))
    (said,) = expressions_of(found, 1, "mask")
    assert (said.text, said.kind, said.targets, said.noun) == ("the circle above the star", "relation", (1,), "circle")
    # The star is alone and has a noun only: it needs no place, and was misnamed too often.
    assert expressions_of(found, 2, "mask") == []


def test_a_group_is_all_that_surely_is_so_and_is_said_once():
    assert [(each.text, each.targets) for each in group_expressions(view(*row_of(3, CIRCLE)))] == [
        ("the three circles", (0, 1, 2))
    ]
    doubtful = {"a circle": 5, "a ball": 5}
    assert list(group_expressions(view(*row_of(2, CIRCLE), ((50, 90), doubtful)))) == []


def test_what_is_absent_is_one_masks_quality_with_anothers_noun():
    found = list(absent_expressions(view(((20, 50), RED_CIRCLE), ((80, 50), BLUE_STAR))))
    assert {(each.text, each.noun) for each in found} == {("the red star", "star"), ("the blue circle", "circle")}
    assert {each.targets for each in found} == {()}
    # A red star stands there too.
    there = view(((20, 50), RED_CIRCLE), ((80, 50), BLUE_STAR), ((50, 20), {"a red star": 10}))
    assert {each.text for each in absent_expressions(there)} == {"the blue circle"}
