"""Hand-written rules of places."""

import pytest

from experiments.quality.student_baselines import Place, head_phrase, read_place

LEFT, UP = (-1.0, 0.0), (0.0, -1.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("the small red star", Place()),
        ("the leftmost star", Place(LEFT)),
        ("star on the left", Place(LEFT)),
        ("the second star from the left", Place(LEFT, 1)),
        ("the left of the two stars", Place(LEFT)),
        ("the star to the left of the blue ring", Place(LEFT, anchor="the blue ring")),
        ("the star above the ring", Place(UP, anchor="the ring")),
    ],
)
def test_a_place_is_an_end_a_rank_or_the_side_of_an_anchor(text: str, place: Place) -> None:
    assert read_place(text) == place


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("the small red star", "the small red star"),
        ("the leftmost red star", "the red star"),
        ("star on the left", "star"),
        ("the second dotted star from the left", "the dotted star"),
        ("the left of the two dotted circles", "the dotted circles"),
        ("circle with a hat above the blue ring", "circle with a hat"),
    ],
)
def test_a_head_phrase_has_the_noun_and_its_attributes_alone(text: str, phrase: str) -> None:
    assert head_phrase(text) == phrase
