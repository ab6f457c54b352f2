"""The texts that PPT's recipes write and read again. Called by `training/ppt`, examples and experiments.

A text is true of its image. What a mirrored image would make untrue is never mirrored.
"""

from __future__ import annotations

import re
from typing import Final

# The paper has this text in section 3.2: "the [class name] in the middle".
MIDDLE: Final = "the {name} in the middle"
_MIDDLE_READ: Final = re.compile(r"the (?P<name>.+) in the middle")

# Maps a mosaic's number of rows to the words for each row. The next constant has the words for columns.
_ROW_WORDS: Final = {1: ("",), 2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
_COLUMN_WORDS: Final = {1: ("",), 2: ("left", "right"), 3: ("left", "middle", "right")}
_AT: Final = {
    "left": ("the {name} on the left", "the left {name}"),
    "right": ("the {name} on the right", "the right {name}"),
    "top": ("the {name} at the top", "the top {name}"),
    "bottom": ("the {name} at the bottom", "the bottom {name}"),
    "middle": ("the {name} in the middle", "the middle {name}"),
}
_CORNER: Final = ("the {name} at the {row} {column}", "the {row} {column} {name}")

_RELATIONS: Final = {
    "left": ("the {name} left of the {anchor}", "the {name} to the left of the {anchor}"),
    "right": ("the {name} right of the {anchor}", "the {name} to the right of the {anchor}"),
    "top": ("the {name} above the {anchor}",),
    "bottom": ("the {name} below the {anchor}", "the {name} under the {anchor}"),
}

# A mirrored image makes these words wrong, as people write them: "left-hand", "topright", "lft", "3 o'clock".
_SIDE: Final = re.compile(
    r"""left(?!over)|(?<!\bb)(?<!\bup)right
    |\b(?:lf?t|rg?t|[lr])\b
    |\b(?:north|south)?(?:west|east)(?:ern)?(?:most)?\b
    |\bo\W?\s?clock|clockwise""",
    re.IGNORECASE | re.VERBOSE,
)


def middle_text(name: str) -> str:
    """Return the text of an object-centric image of a class."""
    return MIDDLE.format(name=name)


def name_in(text: str) -> str | None:
    """Return the class name in a text of `middle_text`; None where it is another text."""
    found = _MIDDLE_READ.fullmatch(text)
    return found["name"] if found else None


def position_texts(name: str, layout: tuple[int, int], tile: tuple[int, int]) -> tuple[str, ...]:
    """Return the texts for the object in a tile (row, column) of a mosaic of 1 to 3 rows and columns, not 1 × 1."""
    row, column = _ROW_WORDS[layout[0]][tile[0]], _COLUMN_WORDS[layout[1]][tile[1]]
    if not row or not column or row == column:
        # One word is enough: the mosaic has a single row or column, or the tile is in the middle of both.
        return tuple(form.format(name=name) for form in _AT[row or column])
    return tuple(form.format(name=name, row=row, column=column) for form in _CORNER)


def relation_texts(name: str, side: str, anchor: str) -> tuple[str, ...]:
    """Return the texts for an object that is on a `side` (left, right, top, bottom) of another."""
    return tuple(form.format(name=name, anchor=anchor) for form in _RELATIONS[side])


def names_a_side(text: str) -> bool:
    """Return whether a mirrored image would make the text untrue; in doubt it would, which costs a flip alone."""
    return _SIDE.search(text) is not None
