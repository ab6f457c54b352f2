"""The words of the synthetic world: attributes of objects, and words that place and count them.

Used by most modules here and by `evidence`. Every word has exactly one meaning, so that the oracle can judge
a text. Scenes are drawn by index into these tuples: another order or word changes every published scene.
"""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES: tuple[str, ...] = (
    *("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "arrow", "moon"),
    *("flower", "drop", "house", "fish", "tree", "mushroom", "bolt", "crown", "key", "boat"),
)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (240, 222, 60),
    "green": (50, 165, 65),
    "aqua": (60, 205, 215),
    "blue": (45, 80, 215),
    "purple": (140, 60, 180),
    "white": (244, 244, 240),
}
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted", "checked")
SIZES: tuple[str, ...] = ("small", "large")
PARTS: tuple[str, ...] = ("hat", "tail", "handle")
# Radii lie in these ranges of scene pixels. The gap between them makes "small" and "large" unambiguous.
RADIUS_RANGE_PX: dict[str, tuple[float, float]] = {"small": (12.5, 16.0), "large": (23.0, 31.0)}
# Training scenes lack a pair of category and colour if the sum of both indices is divisible by this: 27 of 160 pairs.
HELD_OUT_MODULUS = 6
# These words name the object at an end of a row, by the end's side: "the leftmost star", "the left star".
EXTREMES: dict[str, tuple[str, ...]] = {
    "left": ("leftmost", "left"),
    "right": ("rightmost", "right"),
    "top": ("topmost", "top", "upper"),
    "bottom": ("bottommost", "bottom", "lower"),
    "middle": ("middle",),
}
# These words are only used for a row of two objects.
COMPARATIVES: tuple[str, ...] = ("upper", "lower")
ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth")
NUMBERS: dict[str, int] = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
# Maps a relation to the side of the anchor on which the object lies: "the circle above the star" is on its top side.
RELATIONS: dict[str, str] = {
    "above": "top",
    "below": "bottom",
    "under": "bottom",
    "left of": "left",
    "right of": "right",
    "to the left of": "left",
    "to the right of": "right",
}
PLURALS: dict[str, str] = {word: f"{word}s" for word in CATEGORIES} | {"cross": "crosses", "fish": "fish"}


@dataclass(frozen=True)
class Attributes:
    """The words that describe one object; `part` is None for an object without one."""

    category: str
    colour: str
    pattern: str
    size: str
    part: str | None = None


def is_held_out(category: str, colour: str) -> bool:
    """Return whether this category × colour pair is kept out of every training scene."""
    return (CATEGORIES.index(category) + list(COLOURS).index(colour)) % HELD_OUT_MODULUS == 0
