"""Puts a noun phrase into words with a place, rank, relation or number.

For `composer` and `rewording`; `likelihood` takes `Side`. A template must return None if English has no such form of a
phrase: stuff, for instance, is not counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from pseudoris.primitives import english as lexicon
from pseudoris.primitives.noun_phrases import NounPhrase

Side = Literal["left", "right", "top", "bottom"]
Depth = Literal["front", "back"]

_OF_TWO: Final = {"left": "left", "right": "right", "top": "upper", "bottom": "lower"}
_THIRDS: Final = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_RELATIONS: Final = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
_NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_ORDINALS: Final = {2: "second", 3: "third", 4: "fourth"}


def definite(phrase: NounPhrase) -> str:
    """Return "the circle"."""
    return f"the {phrase.text}"


def extreme(side: Side, phrase: NounPhrase) -> str | None:
    """Return "the leftmost circle"; None of stuff."""
    return None if phrase.number == "stuff" else f"the {side}most {_counted(phrase)}"


def extreme_of(side: Side, number: int, phrase: NounPhrase) -> str | None:
    """Return "the left of the two circles"; None for a number that people would not count."""
    if number not in _NUMBERS or phrase.number == "stuff":
        return None
    word = _OF_TWO[side] if number == 2 else f"{side}most"
    return f"the {word} of the {_NUMBERS[number]} {_plural(phrase)}"


def ordinal(side: Side, rank: int, phrase: NounPhrase) -> str | None:
    """Return "the second circle from the left"; None if the rank has no word, or for the same reason as `at_side`."""
    if rank not in _ORDINALS or phrase.number == "stuff" or not _takes_suffix(phrase):
        return None
    return f"the {_ORDINALS[rank]} {_counted(phrase)} from the {side}"


def at_side(side: Side, phrase: NounPhrase) -> str | None:
    """Return "the circle on the left"; None if the suffix would describe a part of the circle."""
    return f"the {phrase.text} {_THIRDS[side]}" if _takes_suffix(phrase) else None


def at_depth(depth: Depth, phrase: NounPhrase) -> str | None:
    """Return "the man in front"; None for the same reason as `at_side`."""
    suffix = "in front" if depth == "front" else "in the back"
    return f"the {phrase.text} {suffix}" if _takes_suffix(phrase) else None


def related(side: Side, phrase: NounPhrase, anchor: NounPhrase) -> str | None:
    """Return "the circle above the star"; None if the suffix would describe a part of the circle."""
    return f"the {phrase.text} {_RELATIONS[side]} the {anchor.text}" if _takes_suffix(phrase) else None


def group(number: int, phrase: NounPhrase) -> str | None:
    """Return "the two circles", or "all circles" for a number that people would not count; None of stuff."""
    if phrase.number == "stuff":
        return None
    return f"the {_NUMBERS[number]} {_plural(phrase)}" if number in _NUMBERS else f"all {_plural(phrase)}"


def _counted(phrase: NounPhrase) -> str:
    """Return the phrase as one thing: "blue pair of jeans"."""
    return replace(phrase, noun=f"pair of {phrase.noun}").text if phrase.number == "pair" else phrase.text


def _plural(phrase: NounPhrase) -> str:
    *first, last = phrase.noun.split()
    nouns = ["pairs of", phrase.noun] if phrase.number == "pair" else [*first, lexicon.plural_of(last)]
    return " ".join((*phrase.before, *nouns, *(_of_several(each, last in lexicon.PEOPLE) for each in phrase.after)))


def _of_several(attribute: str, of_people: bool) -> str:
    """Return "in red shirts" of "in a red shirt", "on their heads" of "on his head", of people "with hats" too."""
    words = ["their" if word in ("his", "her", "its") else word for word in attribute.split()]
    if "their" in words and words[-1] in lexicon.BODY:
        words[-1] = lexicon.plural_of(words[-1])
    is_worn = words[0] in ("in", "wearing") or (of_people and words[0] == "with" and words[-1] in lexicon.CLOTHES)
    if (is_worn or words[0] in ("holding", "carrying")) and words[1] in ("a", "an"):
        end = next((at for at, word in enumerate(words[2:], 2) if word in lexicon.PREPOSITIONS), len(words))
        words[1:end] = [*words[2 : end - 1], lexicon.plural_of(words[end - 1])]
    return " ".join(words)


def _takes_suffix(phrase: NounPhrase) -> bool:
    """Return whether a suffix would describe the head: after one preposition ("with a tail"), but not after two."""
    return sum(word in lexicon.PREPOSITIONS for word in phrase.text.split()) <= 1
