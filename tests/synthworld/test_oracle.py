"""The oracle says which objects of a scene a text refers to: by attributes, places, relations, groups and counts."""

import pytest

from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.oracle import Degree, lies, referents
from pseudoris.synthworld.scenes import Scene, SceneObject


def item(category, colour, pattern, size, part=None, centre=(96.0, 96.0)):
    return SceneObject(Attributes(category, colour, pattern, size, part), centre, 20.0, 0.0, (0, 0, 0))


OBJECTS = (
    item("circle", "red", "dotted", "small", "tail", centre=(20.0, 96.0)),
    item("circle", "red", "plain", "large", centre=(170.0, 96.0)),
    item("circle", "blue", "dotted", "small", centre=(96.0, 20.0)),
    item("star", "red", "dotted", "small", "hat", centre=(96.0, 170.0)),
)
SCENE = Scene(0, 0, OBJECTS)


@pytest.mark.parametrize(
    ("text", "meant"),
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
        ("the leftmost circle", {0}),
        ("the circle", {0, 1, 2}),
        ("the rightmost red circle", {1}),
        ("left of the two dotted circles", {0}),
        ("the left of the two circles", None),
        ("the left of the two squares", set()),
        ("the upper circle", None),
        ("the upper dotted circle", {2}),
        ("the bottom circle", {0, 1}),
        ("the second circle from the left", {2}),
        ("the fourth circle from the left", None),
        ("the third square from the left", set()),
        ("the middle circle", {2}),
        ("the middle of the three circles", {2}),
        ("the middle red circle", None),
        # The red ones are above the star too, for a lenient listener.
        ("the circle above the star", {0, 1, 2}),
        ("the blue circle above the star", {2}),
        ("the circle below the star", set()),
        ("the circle above the square", set()),
        ("the star under the blue circle", {3}),
        ("the star under a circle", {3}),
        ("the circle left of the large circle", {0, 2}),
        ("the red circle left of the large circle", {0}),
        ("the small circle to the left of the star", {0}),
        ("both dotted circles", {0, 2}),
        ("the three circles", {0, 1, 2}),
        ("all circles", {0, 1, 2}),
        ("the two circles", None),
        ("all stars", {3}),
        ("all green circles", set()),
        ("the two circles on the left", None),
        ("the circles above the star", None),
        ("the dotted circles to the left of the large circle", None),
        ("the red circles to the left of the blue circle", {0}),
        ("both red circles on the left", None),
        # What cannot be read is told apart from what fits nothing.
        ("the circle of the circle", None),
    ],
)
def test_an_expression_means_what_a_person_would_take_it_for(text, meant):
    assert referents(text, SCENE) == meant


def scene_of(*centres, star=(96.0, 96.0)):
    objects = [item("circle", "red", "plain", "small", centre=centre) for centre in centres]
    return Scene(0, 0, (*objects, item("star", "red", "plain", "large", centre=star)))


def test_what_is_nearly_aligned_makes_no_expression_right():
    assert referents("the leftmost circle", scene_of((50.0, 20.0), (59.0, 150.0))) == {0, 1}
    assert referents("the leftmost circle", scene_of((50.0, 20.0), (60.0, 150.0))) == {0}
    # One circle is surely left of the star, another only in a way.
    assert referents("the circle left of the star", scene_of((40.0, 96.0), (70.0, 140.0))) == {0, 1}
    assert referents("the circle left of the star", scene_of((70.0, 140.0))) is None
    assert referents("all circles left of the star", scene_of((40.0, 96.0), (70.0, 140.0))) is None
    assert referents("the circle left of the star", scene_of((40.0, 96.0), (90.0, 140.0))) == {0}


def at(x, y):
    return SceneObject(Attributes("circle", "red", "plain", "small"), (x, y), 14.0, 0.0, (0, 0, 0))


@pytest.mark.parametrize(
    ("dx", "dy", "degree"),
    [
        (-40, 0, Degree.YES),
        (-40, 40, Degree.YES),
        (-40, 41, Degree.MAYBE),
        (-40, -80, Degree.MAYBE),
        (-40, 81, Degree.NO),
        (-16, 0, Degree.YES),
        (-15, 0, Degree.MAYBE),
        (-4, 0, Degree.MAYBE),
        (-3, 0, Degree.NO),
        (40, 0, Degree.NO),
        (0, 40, Degree.NO),
    ],
)
def test_left_is_a_step_to_the_left_that_leads_no_further_across(dx, dy, degree):
    anchor = at(100, 100)
    assert lies("left", at(100 + dx, 100 + dy), anchor) is degree
    assert lies("right", at(100 - dx, 100 + dy), anchor) is degree
    assert lies("top", at(100 + dy, 100 + dx), anchor) is degree
    assert lies("bottom", at(100 + dy, 100 - dx), anchor) is degree
