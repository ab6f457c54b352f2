"""Where objects lie to each other, by their centres, and when that is too close to call.

    end of a row    the objects that are less than `ROW_MARGIN_PX` short of the outermost one share its place
    relation        YES where the way from the anchor leads at least `MIN_STEP_PX` to the side and no further across,
                    NO where it leads less than `TOUCH_PX` to the side, or more than twice as far across,
                    MAYBE between: one person says so, another does not

What is too close to call never makes an expression right: see `synthworld.oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from synthworld.scenes import SceneObject

ROW_MARGIN_PX = 10.0
MIN_STEP_PX = 16.0
TOUCH_PX = 4.0
MAX_SLANT = 2.0
# The longer extent of a row, in shorter ones, from which three objects have a middle that nobody doubts.
MIN_ROW_SHAPE = 1.5


class Degree(IntEnum):
    """Whether something holds."""

    NO = 0
    MAYBE = 1
    YES = 2


def along(side: str, item: SceneObject) -> float:
    """Return how far an object lies toward a side, in pixels: larger is further."""
    x, y = item.centre_xy_px
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


def across(side: str, item: SceneObject) -> float:
    """Return an object's place on the other axis, in pixels."""
    x, y = item.centre_xy_px
    return y if side in ("left", "right") else x


def lies(side: str, item: SceneObject, anchor: SceneObject) -> Degree:
    """Return whether an object lies on a side of another one."""
    step = along(side, item) - along(side, anchor)
    aside = abs(across(side, item) - across(side, anchor))
    if step >= MIN_STEP_PX and step >= aside:
        return Degree.YES
    return Degree.MAYBE if step >= TOUCH_PX and aside <= MAX_SLANT * step else Degree.NO


def at_place(side: str, rank: int, row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the objects at a place of a row, counted from a side from 1: several where they share it."""
    places = {number: along(side, item) for number, item in row.items()}
    place = sorted(places.values(), reverse=True)[rank - 1]
    return frozenset(number for number, value in places.items() if abs(value - place) < ROW_MARGIN_PX)


def middle(row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the middle one of three objects along their longer extent; all of them where neither extent is longer."""
    extents = {}
    for side in ("right", "bottom"):
        places = [along(side, item) for item in row.values()]
        extents[side] = max(places) - min(places)
    longer, shorter = sorted(extents, key=lambda side: extents[side], reverse=True)
    if extents[longer] < MIN_ROW_SHAPE * extents[shorter]:
        return frozenset(row)
    return at_place(longer, 2, row)
