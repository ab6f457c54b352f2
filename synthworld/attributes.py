"""What an object of the synthetic world can be, and which pairs of attributes training never sees.

The vocabulary is closed on purpose: every word of a caption has exactly one reading, so that an oracle can judge it.
"""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "cross",
    "ring",
    "arrow",
    "moon",
    "flower",
    "drop",
    "house",
    "fish",
    "tree",
    "mushroom",
    "bolt",
    "crown",
    "key",
    "boat",
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
# Radii in scene pixels; the gap between the two ranges keeps every object on one side of the word.
RADIUS_RANGE_PX: dict[str, tuple[float, float]] = {"small": (12.5, 16.0), "large": (23.0, 31.0)}
# One pair in six: (category index + colour index) divisible by it. 27 of 160 pairs, 16.9 %; every category has one.
HELD_OUT_MODULUS = 6


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


def held_out_pairs() -> tuple[tuple[str, str], ...]:
    """Return all held-out (category, colour) pairs, in the order of the tables above."""
    return tuple((c, k) for c in CATEGORIES for k in COLOURS if is_held_out(c, k))
