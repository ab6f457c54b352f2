"""The words with which people place and count objects; captions of crops never use them, expressions do."""

from __future__ import annotations

from synthworld.attributes import CATEGORIES

# What an end of a row is called, by side: said before the noun ("the leftmost star", "the left star") …
EXTREMES: dict[str, tuple[str, ...]] = {
    "left": ("leftmost", "left"),
    "right": ("rightmost", "right"),
    "top": ("topmost", "top", "upper"),
    "bottom": ("bottommost", "bottom", "lower"),
    "middle": ("middle",),
}
# … and which of them are said of two objects alone.
COMPARATIVES: tuple[str, ...] = ("upper", "lower")
ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth")
NUMBERS: dict[str, int] = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
# From the object to its anchor: "the circle above the star" has the circle on the star's top side.
RELATIONS: dict[str, str] = {
    "above": "top",
    "below": "bottom",
    "under": "bottom",
    "left of": "left",
    "right of": "right",
    "to the left of": "left",
    "to the right of": "right",
}
_IRREGULAR_PLURALS: dict[str, str] = {"cross": "crosses", "fish": "fish"}
PLURALS: dict[str, str] = {word: _IRREGULAR_PLURALS.get(word, f"{word}s") for word in CATEGORIES}
_SMALL_WORDS: tuple[str, ...] = ("on", "at", "from", "to", "of", "all", "both", "there", "this", "is")


def expression_words() -> tuple[str, ...]:
    """Return every word of an expression that no caption of a crop uses, each once, in a fixed order.

    A model that reads expressions needs a token for each of them, even where its captions never taught it one.
    """
    tables = (
        (word for words in EXTREMES.values() for word in words),
        ORDINALS,
        NUMBERS,
        (word for phrase in RELATIONS for word in phrase.split()),
        PLURALS.values(),
        _SMALL_WORDS,
    )
    return tuple(dict.fromkeys(word for table in tables for word in table))
