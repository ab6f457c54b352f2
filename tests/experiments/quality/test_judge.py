"""The judge with other conventions than the composer's."""

import pytest

from experiments.quality.judge import JUDGES, conventions
from pseudoris.synthworld import oracle
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject


def _scene(*places: tuple[str, float, float]) -> Scene:
    return Scene(
        seed=0,
        index=0,
        objects=tuple(
            SceneObject(
                Attributes(name, "red", "plain", "large"), (x * SCENE_SIZE_PX, y * SCENE_SIZE_PX), 20, 0, (0, 0, 0)
            )
            for name, x, y in places
        ),
    )


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        # Three tenths from the left.
        ("the circle on the left", _scene(("circle", 0.3, 0.5))),
        # 1.75 times as far up as to the left.
        ("the circle left of the star", _scene(("circle", 0.4, 0.2), ("star", 0.6, 0.55))),
    ],
)
def test_a_stricter_judge_finds_nothing_where_the_usual_one_may(text: str, scene: Scene) -> None:
    usual, strict = JUDGES.values()
    with conventions(*strict):
        assert oracle.referents(text, scene) == frozenset()
    with conventions(*usual):
        assert oracle.referents(text, scene) != frozenset()
    assert usual == (oracle.SIDE, oracle.MAX_SLANT)
