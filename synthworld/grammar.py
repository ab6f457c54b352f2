"""Reads captions and expressions by the world's closed grammar. Called by this room and `evidence`.

    caption      := [opening] noun phrase
    opening      := "a photo of" | "a picture of" | "an image of" | "there is" | "this is"
    noun phrase  := [article] adjective* category ["with" [article] part] [position]
    adjective    := size | pattern | colour, each at most once, in any order
    position     := "on the left" | "on the right" | "at the top" | "at the bottom"

Beyond captions, each with an opening and an article before it as they have:

    named    := noun phrase [position | relation anchor]              the cup on the left, the circle above the star
    extreme  := end adjective* category ["with" part]                 the leftmost red star, the upper circle
              | end "of the" number adjective* plural ["with" part]   the left of the two dotted circles
    ordinal  := "second" … category ["with" part] "from the" side     the second star from the left
    group    := ("all" | "both" | number | nothing) adjective* plural ["with" part] [position | relation anchor]
    anchor   := noun phrase, without a position

Other texts cannot be parsed. They refer to nothing, so they are wrong. A text has one reading: what `scene_texts`
writes is read back as what it meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

OPENINGS: tuple[str, ...] = ("a photo of", "a picture of", "an image of", "there is", "this is")
POSITIONS: Final = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
ARTICLES: tuple[str, ...] = ("a", "an", "the")
_SLOTS: dict[str, str] = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(PATTERNS, "pattern"),
    **dict.fromkeys(COLOURS, "colour"),
}

_CATEGORIES: Final[Mapping[str, str]] = {word: word for word in CATEGORIES}


@dataclass(frozen=True)
class Description:
    """The attributes that a caption states; None for each that it does not state."""

    category: str
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None
    part: str | None = None
    position: str | None = None


def described_noun(
    tokens: Sequence[str], *, nouns: Mapping[str, str] = _CATEGORIES
) -> tuple[Description, list[str]] | None:
    """Return a noun phrase without its article, read from the start of `tokens`, and the tokens that follow it.

    `nouns` maps the words for categories to their categories. Returns None if no noun phrase starts here.
    """
    stated: dict[str, str] = {}
    rest = list(tokens)
    while rest and rest[0] in _SLOTS:
        slot = _SLOTS[rest[0]]
        if slot in stated:
            return None
        stated[slot] = rest.pop(0)
    if not rest or rest[0] not in nouns:
        return None
    part, noun, rest = None, nouns[rest[0]], rest[1:]
    if rest[:1] == ["with"] and (named := without_article(rest[1:])) and named[0] in PARTS:
        part, rest = named[0], named[1:]
    return Description(category=noun, part=part, **stated), rest


def without_article(tokens: list[str]) -> list[str]:
    """Return the tokens after an article, if there is one."""
    return tokens[1:] if tokens[:1] and tokens[0] in ARTICLES else tokens


_ENDS: Final = frozenset(word for words in EXTREMES.values() for word in words)
_SINGULARS: Final[Mapping[str, str]] = {plural: word for word, plural in PLURALS.items()}
_GROUP_WORDS: Final = ("all", "both", *NUMBERS)


@dataclass(frozen=True)
class Relation:
    """`phrase` is a key of `attributes.RELATIONS`; the anchor has no position."""

    phrase: str
    anchor: Description


@dataclass(frozen=True)
class NamedObject:
    """An object by its words and, at most one of both, its third of the picture or its relation to another object."""

    noun: Description
    relation: Relation | None = None


@dataclass(frozen=True)
class Extreme:
    """The end of a row, `word` of `attributes.EXTREMES`; with a number, the row has that many."""

    noun: Description
    word: str
    number: str | None = None


@dataclass(frozen=True)
class Ordinal:
    """A place in a row: `word` of `attributes.ORDINALS`, counted from `side` of `grammar.POSITIONS`."""

    noun: Description
    word: str
    side: str


@dataclass(frozen=True)
class Group:
    """Several objects; `word` is `all`, `both`, a number, or nothing ("the red circles")."""

    noun: Description
    word: str = ""
    relation: Relation | None = None


Reference = NamedObject | Extreme | Ordinal | Group


def parse_reference(text: str) -> Reference | None:
    """Return the reference that an expression makes, None if it is not of the grammar; of a caption a `NamedObject`."""
    words = text.lower().split()
    opening = next((each for each in map(str.split, OPENINGS) if words[: len(each)] == each), [])
    tokens = without_article(words[len(opening) :])
    readers = (_named, _extreme, _ordinal, _group)
    return next((reference for read in readers if (reference := read(tokens)) is not None), None)


def _named(tokens: list[str]) -> NamedObject | None:
    found = described_noun(tokens)
    placed = None if found is None else _placed(*found)
    return None if placed is None else NamedObject(*placed)


def _extreme(tokens: list[str]) -> Extreme | None:
    if not tokens or tokens[0] not in _ENDS:
        return None
    number, rest = None, tokens[1:]
    if rest[:2] == ["of", "the"] and len(rest) > 2 and rest[2] in NUMBERS:
        number, rest = rest[2], rest[3:]
    found = described_noun(rest) if number is None else described_noun(rest, nouns=_SINGULARS)
    return None if found is None or found[1] else Extreme(found[0], tokens[0], number)


def _ordinal(tokens: list[str]) -> Ordinal | None:
    found = described_noun(tokens[1:]) if tokens and tokens[0] in ORDINALS else None
    if found is None:
        return None
    noun, rest = found
    is_said = len(rest) == 3 and rest[:2] == ["from", "the"] and rest[2] in POSITIONS
    return Ordinal(noun, tokens[0], rest[2]) if is_said else None


def _group(tokens: list[str]) -> Group | None:
    word = tokens[0] if tokens and tokens[0] in _GROUP_WORDS else ""
    rest = tokens[1:] if word else tokens
    # The article in "all the stars" is dropped here. The caller dropped an article at the start of the text.
    if word in ("all", "both") and rest[:1] and rest[0] in ARTICLES:
        rest = rest[1:]
    found = described_noun(rest, nouns=_SINGULARS)
    placed = None if found is None else _placed(*found)
    return None if placed is None else Group(placed[0], word, placed[1])


def _placed(noun: Description, rest: list[str]) -> tuple[Description, Relation | None] | None:
    """What follows a noun phrase: nothing, a position, or a relation with its anchor."""
    if not rest:
        return noun, None
    for phrase in RELATIONS:
        words = phrase.split()
        if rest[: len(words)] == words:
            anchor = described_noun(without_article(rest[len(words) :]))
            return None if anchor is None or anchor[1] else (noun, Relation(phrase, anchor[0]))
    position = next((name for name, phrase in POSITIONS.items() if phrase.split() == rest), None)
    return None if position is None else (replace(noun, position=position), None)
