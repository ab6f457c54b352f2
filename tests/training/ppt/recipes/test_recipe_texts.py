"""What the recipes say of objects, places and relations."""

import pytest

from pseudoris.training.ppt.recipes.recipe_texts import (
    middle_text,
    name_in,
    names_a_side,
    position_texts,
)


def test_the_class_name_comes_back_out_of_an_object_centric_text() -> None:
    assert middle_text("fire truck") == "the fire truck in the middle"
    assert name_in(middle_text("fire truck")) == "fire truck"
    assert name_in("the star on the left") is None


@pytest.mark.parametrize(
    ("layout", "tile", "expected"),
    [
        ((1, 2), (0, 1), "the star on the right"),
        ((2, 1), (0, 0), "the star at the top"),
        ((1, 3), (0, 1), "the star in the middle"),
        ((2, 2), (1, 0), "the star at the bottom left"),
        ((3, 3), (1, 1), "the star in the middle"),
        ((3, 3), (0, 1), "the star at the top middle"),
    ],
)
def test_a_tile_is_named_by_its_place(layout, tile, expected) -> None:
    assert expected in position_texts("star", layout, tile)


@pytest.mark.parametrize(
    "text",
    [
        *("the left star", "the rightmost cup", "left-hand side man", "the left-side cup", "upper-left cup"),
        *("top-right star", "bottom-left", "righthand guy", "lefty", "lft guy", "rt", "Right one", "guy on upper r"),
        *("the west wing", "the north-west tile", "northeast corner", "easternmost tent"),
        *("the plate at 3 o'clock", "cup at 9 oclock", "the next one clockwise"),
    ],
)
def test_a_text_that_names_a_side_would_be_untrue_of_a_mirrored_image(text) -> None:
    assert names_a_side(text)


@pytest.mark.parametrize(
    "text", ["a cup", "the bright star", "an upright vase", "the leftovers", "at least two", "clock"]
)
def test_a_text_that_sounds_like_a_side_and_names_none_may_be_mirrored(text) -> None:
    assert not names_a_side(text)
