"""Judges an expression by a scene: to which objects does it refer? For `scene_truth`, `recipes` and `experiments`.

Words, thirds of the image and counts are true or false. Rows and relations can be too close to decide:

    end of a row    objects less than `ROW_MARGIN_PX` short of the outermost one share its place
    relation        YES if the way from the anchor leads at least `MIN_STEP_PX` to the side and no further across,
                    NO if it leads less than `TOUCH_PX` to the side, or more than twice as far across,
                    MAYBE between: one person says so, another does not

An expression that is too close to decide is never right:

- an object that may be meant counts as meant as soon as another one surely is: the expression is ambiguous;
- if no object surely is, or a group has a member that only may be, the answer is None;
- if an expression presupposes what is not so, "the left of the two circles" among three, the answer is None.
  If no object has the noun's words, it means none: the empty set.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from pseudoris.synthworld.attributes import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS
from pseudoris.synthworld.grammar import Description, Extreme, Group, Ordinal, Reference, Relation, parse_reference
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject

ROW_MARGIN_PX = 10.0
MIN_STEP_PX = 16.0
TOUCH_PX = 4.0
MAX_SLANT = 2.0
# An object is at a side of the picture if its centre lies in this outermost share of the width or height.
SIDE = 1 / 3
# Three objects have a middle one only if their row is at least this many times as long as wide.
MIN_ROW_SHAPE = 1.5


def referents(caption: str, scene: Scene) -> frozenset[int] | None:
    """Return the numbers of the objects that a caption or expression means; None if it cannot be decided.

    A text that fits no object gives an empty set; one that cannot be parsed, or is too close to call, None.
    """
    reference = parse_reference(caption)
    return None if reference is None else meant(reference, scene)


def meant(reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects that a reference means; None if it cannot be decided."""
    return meant_among(row_of(reference.noun, scene), reference, scene)


def meant_among(row: Mapping[int, SceneObject], reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects of `row`, all that fit its noun phrase, that a reference means; None if undecided."""
    if not row:
        return frozenset()
    if isinstance(reference, Extreme):
        side = next(side for side, words in EXTREMES.items() if reference.word in words)
        # Some words need an exact number of objects: "middle" needs three, "upper" and "lower" need two.
        presupposed = {NUMBERS[reference.number]} if reference.number is not None else set()
        presupposed |= {3} if side == "middle" else {2} if reference.word in COMPARATIVES else set()
        if presupposed and presupposed != {len(row)}:
            return None
        return middle(row) if side == "middle" else at_place(side, 1, row)
    if isinstance(reference, Ordinal):
        rank = ORDINALS.index(reference.word) + 1
        return at_place(reference.side, rank, row) if rank <= len(row) else None
    surely, maybe = frozenset(row), frozenset[int]()
    if reference.relation is not None:
        surely, maybe = _related(reference.relation, row, scene)
    if isinstance(reference, Group):
        number = 2 if reference.word == "both" else NUMBERS.get(reference.word)
        if maybe or (surely and number is not None and number != len(surely)):
            return None
        return surely
    return None if maybe and not surely else surely | maybe


def row_of(noun: Description, scene: Scene) -> dict[int, SceneObject]:
    """Return the objects that a noun phrase fits, by their numbers."""
    return {n: item for n, item in enumerate(scene.objects) if fits(noun, item)}


def fits(description: Description, item: SceneObject) -> bool:
    """Return whether each stated word is true of the object; attributes that are not stated are ignored."""
    for name in ("category", "colour", "pattern", "size", "part"):
        if getattr(description, name) not in (None, getattr(item.attributes, name)):
            return False
    x, y = (c / SCENE_SIZE_PX for c in item.centre_xy_px)
    is_at = {"left": x < SIDE, "right": x > 1 - SIDE, "top": y < SIDE, "bottom": y > 1 - SIDE}
    return description.position is None or is_at[description.position]


def _related(relation: Relation, row: Mapping[int, SceneObject], scene: Scene) -> tuple[frozenset[int], frozenset[int]]:
    """Which of a row surely, and which only maybe, lie so to some object that the anchor's words fit."""
    anchors = [(n, item) for n, item in enumerate(scene.objects) if fits(relation.anchor, item)]
    side = RELATIONS[relation.phrase]
    degrees = {
        number: max((lies(side, item, anchor) for n, anchor in anchors if n != number), default=Degree.NO)
        for number, item in row.items()
    }
    surely = frozenset(number for number, degree in degrees.items() if degree is Degree.YES)
    return surely, frozenset(number for number, degree in degrees.items() if degree is Degree.MAYBE)


class Degree(IntEnum):
    """Whether something holds."""

    NO = 0
    MAYBE = 1
    YES = 2


def lies(side: str, item: SceneObject, anchor: SceneObject) -> Degree:
    """Return whether an object is on a side of another one."""
    step = along(side, item) - along(side, anchor)
    aside = abs(across(side, item) - across(side, anchor))
    if step >= MIN_STEP_PX and step >= aside:
        return Degree.YES
    return Degree.MAYBE if step >= TOUCH_PX and aside <= MAX_SLANT * step else Degree.NO


def along(side: str, item: SceneObject) -> float:
    """Return an object's distance toward a side, in pixels: larger is further."""
    x, y = item.centre_xy_px
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


def across(side: str, item: SceneObject) -> float:
    """Return an object's place on the other axis, in pixels."""
    return item.centre_xy_px[1 if side in ("left", "right") else 0]


def at_place(side: str, rank: int, row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the objects at a place in a row, counted from a side from 1: several if they share it."""
    places = {number: along(side, item) for number, item in row.items()}
    place = sorted(places.values(), reverse=True)[rank - 1]
    return frozenset(number for number, value in places.items() if abs(value - place) < ROW_MARGIN_PX)


def middle(row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the middle one of three objects along their longer extent; all three if neither extent is longer."""
    places = {side: [along(side, item) for item in row.values()] for side in ("right", "bottom")}
    extents = {side: max(each) - min(each) for side, each in places.items()}
    longer, shorter = sorted(extents, key=lambda side: extents[side], reverse=True)
    if extents[longer] < MIN_ROW_SHAPE * extents[shorter]:
        return frozenset(row)
    return at_place(longer, 2, row)
