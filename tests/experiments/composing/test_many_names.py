"""The oracle with several names: each means its category, a wider one all of its categories, both in one text too."""

import pytest

from experiments.composing.many_names import NamedTruth
from pseudoris.synthworld.scenes import Split, make_scene

# Of this scene: 0 to 2 crowns, 3 and 4 mushrooms, 5 a tree, 6 a triangle at the bottom, 7 a ring at the left.
SCENE = make_scene(Split.DEVELOPMENT, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("the coronet", {0, 1, 2}),
        ("the green tiara", {0}),
        ("the hoop", {7}),
        ("the shape", {6, 7}),
        ("the leftmost shape", {7}),
        ("the three plants", {3, 4, 5}),
        ("all toys", {0, 1, 2}),
        ("a symbol", set()),
        ("a disk", set()),
        ("the plant to the right of the toy", {4, 5}),
        ("the tiara above the shape", {0, 1, 2}),
        ("the shape below the hoop", {6}),
    ],
)
def test_a_text_means_what_its_names_are_true_of(text, meant):
    assert NamedTruth(SCENE).referents(text) == meant


def test_what_is_in_no_name_is_not_read():
    assert NamedTruth(SCENE).referents("the gizmo") is None
