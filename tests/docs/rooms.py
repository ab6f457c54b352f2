"""Draws the rooms of the house and who imports whom, from the imports themselves, as docs/records/rooms.svg.

python -m tests.docs.rooms
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from textwrap import wrap

import grimp
from markupsafe import Markup

from pseudoris.store.reports.charts import element, svg_file

DRAWING = Path(__file__).parents[2] / "docs" / "records" / "rooms.svg"
_PACKAGE = "pseudoris"
_WIDTH, _MARGIN, _BOX_WIDTH, _BOX_HEIGHT, _FLOOR_HEIGHT = 960, 10, 222, 62, 104
_NAMES_A_LINE = 40
_STYLE = (
    "text{font:12px sans-serif;fill:#1f2328;text-anchor:middle}.room{font-weight:bold;font-size:14px}"
    "rect{fill:#f6f8fa;stroke:#59636e}line{stroke:#818b98}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}rect{fill:#151b23;stroke:#9198a1}line{stroke:#656c76}}"
)


def imports_of_rooms() -> dict[str, set[str]]:
    """Return the rooms that each room imports; those that it reaches through another one are left out."""
    graph = grimp.build_graph(_PACKAGE)
    rooms = {_PACKAGE: {f"{_PACKAGE}.__main__"}}
    rooms |= {each: {each, *graph.find_descendants(each)} for each in graph.find_children(_PACKAGE)}
    rooms[_PACKAGE].add(_PACKAGE)
    rooms.pop(f"{_PACKAGE}.__main__", None)
    home = {module: room for room, modules in rooms.items() for module in modules}
    direct = {
        room: {home[other] for each in modules for other in graph.find_modules_directly_imported_by(each)} - {room}
        for room, modules in rooms.items()
    }

    def reached(room: str) -> set[str]:
        return direct[room].union(*(reached(below) for below in direct[room]))

    return {room: below - set().union(*(reached(each) for each in below)) for room, below in direct.items()}


def parts_of(room: str) -> list[str]:
    folder = DRAWING.parents[2] / room.removeprefix(f"{_PACKAGE}.")
    return [] if room == _PACKAGE else sorted(each.parent.name for each in folder.glob("*/__init__.py"))


def draw() -> str:
    below = imports_of_rooms()

    def floor(room: str) -> int:
        return max((1 + floor(each) for each in below[room]), default=0)

    floors: dict[int, list[str]] = {}
    for room in sorted(below):
        floors.setdefault(floor(room), []).append(room)
    place: dict[str, tuple[float, float]] = {}
    for number, rooms in sorted(floors.items()):
        across = [(at + 0.5) * _WIDTH / len(rooms) for at in range(len(rooms))]
        if number and len(rooms) == 1:
            # Above the middle of what it imports, so that no line runs behind it.
            across = [fmean(place[each][0] for each in below[rooms[0]])]
        place |= {
            room: (x, (max(floors) - number) * _FLOOR_HEIGHT + _MARGIN) for room, x in zip(rooms, across, strict=True)
        }
    height = (max(floors) + 1) * _FLOOR_HEIGHT - _FLOOR_HEIGHT + _BOX_HEIGHT + 2 * _MARGIN
    lines = [
        element("line", x1=round(x), y1=round(y + _BOX_HEIGHT), x2=round(place[each][0]), y2=round(place[each][1]))
        for room, (x, y) in place.items()
        for each in sorted(below[room])
    ]
    boxes = [part for room, (x, y) in place.items() for part in _box(room, x, y)]
    return svg_file(_WIDTH, height, element("style", Markup(_STYLE)), *lines, *boxes, role="img")


def _box(room: str, x: float, y: float) -> Iterator[Markup]:
    yield element("rect", x=round(x - _BOX_WIDTH / 2), y=round(y), width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=6)
    yield element("text", room.removeprefix(f"{_PACKAGE}."), class_="room", x=round(x), y=round(y + 17))
    for number, line in enumerate(wrap(" ".join(parts_of(room)), _NAMES_A_LINE)):
        yield element("text", line, x=round(x), y=round(y + 33 + 12 * number))


if __name__ == "__main__":
    DRAWING.write_text(draw(), encoding="utf-8")
