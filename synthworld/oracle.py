"""Judges a caption by the truth of a scene: which objects does it fit?"""

from __future__ import annotations

from synthworld.grammar import Description, parse
from synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject


def referents(caption: str, scene: Scene) -> frozenset[int] | None:
    """Returns the numbers of the objects that a caption fits, or None if it cannot be parsed.

    A caption that fits no object gives an empty set.
    """
    description = parse(caption)
    if description is None:
        return None
    return frozenset(n for n, item in enumerate(scene.objects) if fits(description, item))


def refers_to(caption: str, scene: Scene, number: int) -> bool:
    """Returns whether a caption fits this object and nothing else of the scene; False if it cannot be parsed."""
    return referents(caption, scene) == frozenset((number,))


def fits(description: Description, item: SceneObject) -> bool:
    """Returns whether each stated word is true of the object; what is not stated is not asked."""
    truth = item.attributes
    pairs = (
        (description.category, truth.category),
        (description.colour, truth.colour),
        (description.pattern, truth.pattern),
        (description.size, truth.size),
        (description.part, truth.part),
    )
    if any(said is not None and said != true for said, true in pairs):
        return False
    return description.position is None or _is_at(description.position, item)


def _is_at(position: str, item: SceneObject) -> bool:
    """Whether the centre lies in the third of the scene that the word names."""
    x, y = (c / SCENE_SIZE_PX for c in item.centre_xy_px)
    return {"left": x < 1 / 3, "right": x > 2 / 3, "top": y < 1 / 3, "bottom": y > 2 / 3}[position]
