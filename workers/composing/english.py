"""English: reads the noun phrase of a caption, and fills the templates of expressions.

No other module of the composer contains English words. A template returns None if English has no such form of a phrase.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pseudoris.workers.composing.geometry import Side
from pseudoris.workers.filtering import noun_lexicon as lexicon

# Openings before the noun phrase of a caption; there may be several ("this is a photo of a dog").
_OPENINGS: Final = re.compile(
    r"(?:there (?:is|are)|this is|these are|it is|here is|"
    rf"(?:an? |the )?(?:close ?up )?(?:{'|'.join(sorted(lexicon.PICTURES))}) (?:of|showing)) "
)
_CLOSED_WORDS: Final = lexicon.ARTICLES | lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.RELATIVES
# Clauses, pronouns, and phrases that already state a position are not composed.
_UNFIT_WORDS: Final = frozenset(
    {
        *(lexicon.AUXILIARIES | lexicon.PERSONAL_PRONOUNS | lexicon.EMPTY_PRONOUNS | lexicon.CONJUNCTIONS),
        *(lexicon.PLACES | {"other"}),
    }
)
_OF_ONE: Final = lexicon.ARTICLES | {"one"}
_OF_OTHER_NUMBERS: Final = lexicon.DETERMINERS | lexicon.NUMERALS
_MAX_WORDS: Final = 9

_EXTREMES: Final[Mapping[Side, str]] = {
    "left": "leftmost",
    "right": "rightmost",
    "top": "topmost",
    "bottom": "bottommost",
}
_OF_TWO: Final[Mapping[Side, str]] = {"left": "left", "right": "right", "top": "upper", "bottom": "lower"}
_THIRDS: Final[Mapping[Side, str]] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_RELATIONS: Final[Mapping[Side, str]] = {
    "left": "to the left of",
    "right": "to the right of",
    "top": "above",
    "bottom": "below",
}
_NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_ORDINALS: Final = {2: "second", 3: "third", 4: "fourth"}
_IRREGULAR_PLURALS: Final[Mapping[str, str]] = {
    **{"person": "people", "child": "children", "foot": "feet", "tooth": "teeth", "mouse": "mice", "goose": "geese"},
    **{"ox": "oxen", "knife": "knives", "leaf": "leaves", "loaf": "loaves", "shelf": "shelves", "wolf": "wolves"},
    **{"calf": "calves", "scarf": "scarves", "potato": "potatoes", "tomato": "tomatoes", "human": "humans"},
    **{word: word for word in ("fish", "sheep", "deer", "aircraft", "bison", "series")},
}
_PLURALS: Final = lexicon.IRREGULAR_PLURALS - _IRREGULAR_PLURALS.keys()
_SINGULARS_IN_S: Final = frozenset({"lens", "bus", "gas", "series", "iris"})


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A caption's noun phrase, without opening and article.

    Attributes:
        text: Its words, lower case.
        noun: Its head, a part of the text.
        words: Its words beside the noun: adjectives, and nouns for what the object has or does.
    """

    text: str
    noun: str
    words: frozenset[str]


def noun_phrase(caption: str, noun: str | None) -> NounPhrase | None:
    """Return a caption's noun phrase for the templates; None if it is a clause, a list, a plural or a quantity."""
    text = caption
    while opening := _OPENINGS.match(text):
        text = text[opening.end() :]
    words = text.split()
    if words and words[0] in _OF_ONE:
        words = words[1:]
    if noun is None or not 0 < len(words) <= _MAX_WORDS or _is_plural(noun) or _find_noun(noun, words) is None:
        return None
    if words[0] in _OF_OTHER_NUMBERS:
        return None
    if any(word in _UNFIT_WORDS or not word.replace("-", "").isalpha() for word in words):
        return None
    return NounPhrase(" ".join(words), noun, frozenset(words) - frozenset(noun.split()) - _CLOSED_WORDS)


def definite(phrase: NounPhrase) -> str:
    """Return "the circle"."""
    return f"the {phrase.text}"


def extreme(side: Side, phrase: NounPhrase) -> str:
    """Return "the leftmost circle"."""
    return f"the {_EXTREMES[side]} {phrase.text}"


def extreme_of(side: Side, number: int, phrase: NounPhrase) -> str | None:
    """Return "the left of the two circles"; None for a number that people would not count."""
    if number not in _NUMBERS:
        return None
    word = _OF_TWO[side] if number == 2 else _EXTREMES[side]
    return f"the {word} of the {_NUMBERS[number]} {_plural(phrase)}"


def ordinal(side: Side, rank: int, phrase: NounPhrase) -> str | None:
    """Return "the second circle from the left"; None if the rank has no word, or for the same reason as `at_side`."""
    if rank not in _ORDINALS or not _takes_suffix(phrase):
        return None
    return f"the {_ORDINALS[rank]} {phrase.text} from the {side}"


def at_side(side: Side, phrase: NounPhrase) -> str | None:
    """Return "the circle on the left"; None if the suffix would describe a part of the circle."""
    return f"the {phrase.text} {_THIRDS[side]}" if _takes_suffix(phrase) else None


def related(side: Side, phrase: NounPhrase, anchor: NounPhrase) -> str | None:
    """Return "the circle above the star"; None if the suffix would describe a part of the circle."""
    return f"the {phrase.text} {_RELATIONS[side]} the {anchor.text}" if _takes_suffix(phrase) else None


def group(number: int, phrase: NounPhrase) -> str:
    """Return "the two circles", or "all circles" for a number that people would not count."""
    return f"the {_NUMBERS[number]} {_plural(phrase)}" if number in _NUMBERS else f"all {_plural(phrase)}"


def _plural(phrase: NounPhrase) -> str:
    """The phrase for several objects: the head in the plural, everything else unchanged."""
    words = phrase.text.split()
    begin = _find_noun(phrase.noun, words)
    if begin is None:
        raise ValueError(f"the noun {phrase.noun!r} is not in {phrase.text!r}")
    last = begin + len(phrase.noun.split()) - 1
    words[last] = _plural_of(words[last])
    return " ".join(words)


def _find_noun(noun: str, words: list[str]) -> int | None:
    """Index of the first word of a noun; a noun may have several words."""
    head = noun.split()
    return next((n for n in range(len(words)) if words[n : n + len(head)] == head), None)


def _plural_of(noun: str) -> str:
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith("man"):
        return f"{noun.removesuffix('man')}men"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun.removesuffix('y')}ies"
    return f"{noun}s"


def _is_plural(noun: str) -> bool:
    last = noun.split()[-1]
    is_regular = last.endswith("s") and not last.endswith("ss") and last not in _SINGULARS_IN_S
    return is_regular or last in _PLURALS


def _takes_suffix(phrase: NounPhrase) -> bool:
    """Whether a suffix would describe the head: after one preposition ("with a tail") it does, after two it may not."""
    return sum(word in lexicon.PREPOSITIONS for word in phrase.text.split()) <= 1
