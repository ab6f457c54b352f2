"""Hand-written rules that read a place from an English expression, for a baseline that nothing was trained for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LEFT, _RIGHT, _UP, _DOWN = (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)
_RELATIONS: Final = (
    (r"\b(?:to the )?left of\b", _LEFT),
    (r"\b(?:to the )?right of\b", _RIGHT),
    (r"\b(?:above|over|on top of)\b", _UP),
    (r"\b(?:below|under|beneath|underneath)\b", _DOWN),
)
_ENDS: Final = (
    (r"\b(?:left|leftmost)\b", _LEFT),
    (r"\b(?:right|rightmost)\b", _RIGHT),
    (r"\b(?:top|topmost|upper)\b", _UP),
    (r"\b(?:bottom|bottommost|lower)\b", _DOWN),
)
# "The left of the two stars" orders a row: it relates to no anchor.
_OF_SO_MANY: Final = re.compile(r"\bof the (?:two|three|four|five|six)\b")
# "On the left", "from the top", "in the middle".
_PLACES: Final = re.compile(r"\b(?:on|at|in|from|to) the (?:left|right|top|bottom|middle|center|centre)\b(?: side)?")
_ORDER: Final = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|middle|leftmost|rightmost|topmost|bottommost|first|second|third|fourth"
    r"|of the (?:two|three|four|five|six))\b"
)
_RANKS: Final = {"second": 1, "third": 2, "fourth": 3}


@dataclass(frozen=True, slots=True)
class Place:
    """What an expression says of where its object is.

    Attributes:
        direction: (x, y) in which the object lies furthest, or lies from the anchor; None if it names no place.
        rank: How many of its kind lie further in that direction.
        anchor: The words of the object that it is related to; None without a relation.
    """

    direction: tuple[float, float] | None = None
    rank: int = 0
    anchor: str | None = None


def read_place(text: str) -> Place:
    """Return the place that an expression names first."""
    if not _OF_SO_MANY.search(text):
        for pattern, direction in _RELATIONS:
            found = re.search(pattern, text)
            if found is not None:
                return Place(direction, anchor=text[found.end() :].strip())
    for pattern, direction in _ENDS:
        if re.search(pattern, text):
            rank = next((rank for word, rank in _RANKS.items() if re.search(rf"\b{word}\b", text)), 0)
            return Place(direction, rank)
    return Place()


def head_phrase(text: str) -> str:
    """Return the words that describe the object itself: without a place, an order, a number or an anchor."""
    if not _OF_SO_MANY.search(text):
        for pattern, _ in _RELATIONS:
            text = re.split(pattern, text, maxsplit=1)[0]
    left = _PLACES.sub(" ", text)
    return " ".join(_ORDER.sub(" ", left).split())
