from collections import Counter

import pytest

from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.oracle import referents
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from recipes.simulated_expressions import Expression, first_voice_expressions


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(Split.DEVELOPMENT, position) for position in range(40)]


def scene_expressions(scene: Scene) -> list[tuple[int, Expression]]:
    """Return every object's expressions, in the order of the objects."""
    return [(number, each) for number in range(len(scene.objects)) for each in first_voice_expressions(scene, number)]


@pytest.fixture(scope="module")
def said(scenes) -> list[tuple[Scene, int, Expression]]:
    return [(scene, number, each) for scene in scenes for number, each in scene_expressions(scene)]


def test_every_expression_means_its_object_and_nothing_else(said):
    for scene, number, each in said:
        assert each.targets == {number}
        assert referents(each.text, scene) == {number}


def test_an_object_has_two_or_three_expressions_and_every_second_has_a_place_or_a_relation(scenes, said):
    num_objects = sum(len(scene.objects) for scene in scenes)
    assert 2 <= len(said) / num_objects <= 3
    kinds = Counter(each.kind for _, _, each in said)
    assert kinds.keys() == {"attribute", "position", "relation"}
    assert 0.4 <= 1 - kinds["attribute"] / len(said) <= 0.6
    assert min(kinds.values()) > 0.08 * len(said)


def test_an_annotator_says_the_same_every_time_and_another_seed_says_other_things(scenes, said):
    again = [each for scene in scenes[:8] for _, each in scene_expressions(scene)]
    assert again == [each for _, _, each in said[: len(again)]]
    other = Scene(7, scenes[0].index, scenes[0].objects)
    assert scene_expressions(other) != scene_expressions(scenes[0])


@pytest.mark.parametrize(("gap", "num_said"), [(3.0, 0), (60.0, 2)])
def test_twins_are_told_apart_by_place_alone(gap, num_said):
    twins = [
        SceneObject(Attributes("fish", "red", "plain", "small"), (80.0 + x, 80.0 + x), 14.0, 0.0, (0, 0, 0))
        for x in (0, gap)
    ]
    scene = Scene(0, 5, tuple(twins))
    said = first_voice_expressions(scene, 0)
    assert len(said) >= num_said
    assert (not said) == (num_said == 0)
    assert all(each.kind != "attribute" for each in said)
