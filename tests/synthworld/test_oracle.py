import pytest

from synthworld.attributes import Attributes
from synthworld.oracle import referents, refers_to
from synthworld.scenes import Scene, SceneObject


def item(category, colour, pattern, size, part=None, centre=(96.0, 96.0)):
    return SceneObject(Attributes(category, colour, pattern, size, part), centre, 20.0, 0.0, (0, 0, 0))


SCENE = Scene(
    0,
    0,
    (
        item("circle", "red", "dotted", "small", "tail", centre=(20.0, 96.0)),
        item("circle", "red", "plain", "large", centre=(170.0, 96.0)),
        item("circle", "blue", "dotted", "small", centre=(96.0, 20.0)),
        item("star", "red", "dotted", "small", "hat", centre=(96.0, 170.0)),
    ),
)


@pytest.mark.parametrize(
    ("caption", "fitting"),
    [
        ("a photo of a circle", {0, 1, 2}),
        ("the red circle", {0, 1}),
        ("the small dotted red circle", {0}),
        ("a circle with a tail", {0}),
        ("a large circle", {1}),
        ("there is a blue circle", {2}),
        ("a star", {3}),
        ("a star with a tail", set()),
        ("a green circle", set()),
        ("a square", set()),
        ("the circle on the left", {0}),
        ("the circle on the right", {1}),
        ("a circle at the top", {2}),
        ("a red star at the bottom", {3}),
    ],
)
def test_a_caption_fits_what_it_says(caption, fitting):
    assert referents(caption, SCENE) == fitting


def test_what_cannot_be_parsed_fits_nothing_and_is_told_apart():
    assert referents("the circle of the circle", SCENE) is None
    assert not refers_to("the circle of the circle", SCENE, 0)


def test_to_refer_is_to_fit_one_object_alone():
    assert refers_to("a large circle", SCENE, 1)
    assert not refers_to("a large circle", SCENE, 0)
    assert not refers_to("the red circle", SCENE, 0)
    assert not refers_to("a square", SCENE, 0)
