import pytest

from synthworld.attributes import Attributes
from synthworld.places import Degree, at_place, lies, middle
from synthworld.scenes import SceneObject


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


def test_nothing_surely_lies_on_two_sides_but_at_equal_steps():
    anchor = at(96, 96)
    for x in range(0, 192, 7):
        for y in range(0, 192, 7):
            sides = [s for s in ("left", "right", "top", "bottom") if lies(s, at(x, y), anchor) is Degree.YES]
            assert len(sides) <= (2 if abs(x - 96) == abs(y - 96) else 1)


def test_places_that_are_nearly_equal_are_shared():
    row = {0: at(20, 0), 3: at(29, 50), 5: at(40, 90), 7: at(100, 10)}
    assert at_place("left", 1, row) == {0, 3}
    assert at_place("left", 3, row) == {5}
    assert at_place("right", 1, row) == {7}
    assert at_place("right", 2, row) == {5}
    assert at_place("top", 1, row) == {0}
    assert at_place("bottom", 1, row) == {5}


def test_the_middle_of_three_lies_along_their_longer_extent():
    assert middle({0: at(20, 50), 1: at(100, 90), 2: at(60, 60)}) == {2}
    assert middle({0: at(50, 20), 1: at(60, 150), 2: at(90, 60)}) == {2}
    assert middle({0: at(20, 20), 1: at(100, 100), 2: at(60, 60)}) == {0, 1, 2}
