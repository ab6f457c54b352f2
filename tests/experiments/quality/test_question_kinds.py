"""Kinds of questions."""

import pytest

from experiments.quality.question_kinds import kind_of
from pseudoris.synthworld.human_expressions import person_expressions
from pseudoris.synthworld.scenes import Split, make_scene


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("the small red star", "attribute"),
        ("the star on the left", "position"),
        ("the leftmost red star", "position"),
        ("the second star from the left", "position"),
        ("the circle above the star", "relation"),
        ("that thing over there", "unread"),
    ],
)
def test_a_kind_is_what_singles_the_object_out(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_it_is_the_kind_that_the_speaker_meant() -> None:
    scenes = [make_scene(Split.DEMO, number) for number in range(3)]
    said = [each for scene in scenes for at in range(len(scene.objects)) for each in person_expressions(scene, at)]

    assert [kind_of(each.text) for each in said] == [each.kind for each in said]
