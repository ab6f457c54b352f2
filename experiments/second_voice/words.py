"""The words of the second voice: synonyms of attributes, and other phrases for places, ends, ranks and relations.

Each word for an attribute is a synonym of one word of `attributes` and of nothing else. Phrases that a person would
grant in more cases than the oracle are left out: "higher than" for "above", "next to" for "left of".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pseudoris.synthworld.attributes import (
    CATEGORIES,
    COLOURS,
    EXTREMES,
    NUMBERS,
    ORDINALS,
    PARTS,
    PATTERNS,
    PLURALS,
    RELATIONS,
    SIZES,
)
from pseudoris.synthworld.grammar import POSITIONS

Phrases = Mapping[str, tuple[str, ...]]

NOUNS: Final[Phrases] = {
    "circle": ("disc",),
    "ring": ("hoop",),
    "moon": ("crescent",),
    "flower": ("blossom",),
    "house": ("cottage",),
    "mushroom": ("toadstool",),
    "bolt": ("lightning bolt",),
    "boat": ("sailing boat", "ship"),
}
ADJECTIVES: Final[Phrases] = {
    "red": ("scarlet",),
    "orange": ("tangerine",),
    "yellow": ("golden",),
    "green": ("emerald",),
    "aqua": ("turquoise", "cyan"),
    "blue": ("cobalt",),
    "purple": ("violet",),
    "plain": ("solid", "unpatterned"),
    "striped": ("stripy",),
    "dotted": ("spotted", "dotty"),
    "checked": ("chequered", "checkered"),
    "small": ("tiny", "little"),
    "large": ("big", "huge"),
}
# Instead of a category, where the other words are enough.
THINGS: Final = ("thing", "one", "object", "shape")
OPENERS: Final = (
    "can you see",
    "find",
    "find me",
    "i mean",
    "look for",
    "point at",
    "show me",
    "where is",
)

_OPPOSITES: Final = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
# Thirds of the picture: in words of the first voice, whole and cut short, and in other words.
SPOTS: Final[Phrases] = {
    **{side: (f"on the {side}", f"at the {side}", f"to the {side}") for side in ("left", "right")},
    **{side: (f"at the {side}",) for side in ("top", "bottom")},
}
SHORT_SPOTS: Final[Phrases] = {
    **{side: (f"on {side}", f"at {side}") for side in ("left", "right")},
    **{side: (f"at {side}",) for side in ("top", "bottom")},
}
_SIDE_ZONES: Final = ("on the {} side", "over on the {}", "over to the {}", "on the {} hand side", "in the {} third")
ZONES: Final[Phrases] = {
    **{side: tuple(zone.format(side) for zone in _SIDE_ZONES) for side in ("left", "right")},
    "top": ("up at the top", "near the top", "in the upper part", "in the top third", "up top"),
    "bottom": ("down at the bottom", "near the bottom", "in the lower part", "in the bottom third", "down low"),
}
# Ends of a row, before a noun, and after it.
ENDS: Final[Phrases] = {
    "left": ("leftmost", "furthest left"),
    "right": ("rightmost", "furthest right"),
    "top": ("uppermost", "highest"),
    "bottom": ("lowermost", "lowest"),
    "middle": ("middle",),
}
FAR: Final[Phrases] = {
    "left": ("furthest left", "furthest to the left", "most to the left"),
    "right": ("furthest right", "furthest to the right", "most to the right"),
    "top": ("furthest up", "highest up"),
    "bottom": ("furthest down", "lowest down"),
}
# Of two objects alone, as `attributes.COMPARATIVES`.
HIGHER: Final[Phrases] = {"top": ("higher",), "bottom": ("lower",)}
# From the object to its anchor, by the side of the anchor on which the object lies.
PLAIN_RELATIONS: Final[Phrases] = {
    "top": ("above",),
    "bottom": ("below", "under"),
    **{side: (f"on the {side} of", f"at the {side} of", f"to the {side} of") for side in ("left", "right")},
}
NEW_RELATIONS: Final[Phrases] = {
    "top": ("over", "up above"),
    "bottom": ("beneath", "underneath"),
    **{side: (f"on the {side} side of", f"to the {side} side of") for side in ("left", "right")},
}
# The same relations the other way round, after the anchor: "with the ring below" is "above the ring".
PLAIN_CONVERSES: Final[Phrases] = {
    "top": ("below", "under"),
    "bottom": ("above",),
    **{side: (f"on the {_OPPOSITES[side]}", f"to the {_OPPOSITES[side]}") for side in ("left", "right")},
}
NEW_CONVERSES: Final[Phrases] = {
    "top": ("beneath it", "underneath it"),
    "bottom": ("over it", "above it"),
    **{
        side: (f"on its {_OPPOSITES[side]}", f"to its {_OPPOSITES[side]}", f"to the {_OPPOSITES[side]} of it")
        for side in ("left", "right")
    },
}

# Words that `first_voice_expressions` uses too.
FIRST_VOICE_WORDS: Final = frozenset(
    (
        *(*CATEGORIES, *PLURALS.values(), *COLOURS, *PATTERNS, *SIZES, *PARTS, *NUMBERS, *ORDINALS[1:]),
        *(word for words in EXTREMES.values() for word in words),
        *(word for phrase in (*RELATIONS, *POSITIONS.values()) for word in phrase.split()),
        *("the", "a", "with", "from"),
    )
)
# Start and end of the text tower's sixteen tokens are not counted.
MAX_TOKENS: Final = 14
# Beyond one; a comma is one more.
_EXTRA_TOKENS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("leftmost", "rightmost", "topmost", "bottommost", "uppermost", "lowermost", "furthest"), 1),
    **dict.fromkeys(("triangles", "unpatterned", "stripy", "dotty", "chequered", "checkered", "crescents", "cyan"), 1),
    **{"toadstool": 2, "toadstools": 3},
}
_WORDS: Final = re.compile(r"[a-z]+|,")


def num_tokens(text: str) -> int:
    """Return how many tokens CLIP makes of a text of this voice, without start and end."""
    return sum(1 + _EXTRA_TOKENS.get(word, 0) for word in _WORDS.findall(text))


def is_familiar(text: str) -> bool:
    """Return whether each word is one that `first_voice_expressions` uses, and none is followed by a comma."""
    return all(word in FIRST_VOICE_WORDS for word in _WORDS.findall(text))


def plural(noun: str) -> str:
    """Return the plural of a category's word or of its synonym."""
    return PLURALS.get(noun, f"{noun}s")
