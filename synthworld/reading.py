"""Reads an expression of the closed grammar of `synthworld.references`; a caption is the simplest of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from synthworld.grammar import (
    ARTICLES,
    POSITIONS,
    Description,
    noun_phrase,
    with_position,
    without_article,
    without_opening,
)
from synthworld.references import Extreme, Group, Named, Ordinal, Reference, Relation
from synthworld.wording import EXTREMES, NUMBERS, ORDINALS, PLURALS, RELATIONS

_ENDS: Final = frozenset(word for words in EXTREMES.values() for word in words)
_SINGULARS: Final[Mapping[str, str]] = {plural: word for word, plural in PLURALS.items()}
_GROUP_WORDS: Final = ("all", "both", *NUMBERS)


def read(text: str) -> Reference | None:
    """Return what an expression says, or None if it is not of the grammar.

    What `grammar.parse` reads is a `Named` of the same description.
    """
    tokens = without_article(without_opening(text.lower().split()))
    for reader in (_named, _extreme, _ordinal, _group):
        reference = reader(tokens)
        if reference is not None:
            return reference
    return None


def _named(tokens: list[str]) -> Named | None:
    found = noun_phrase(tokens)
    if found is None:
        return None
    placed = _placed(*found)
    return None if placed is None else Named(*placed)


def _extreme(tokens: list[str]) -> Extreme | None:
    if not tokens or tokens[0] not in _ENDS:
        return None
    number, rest = None, tokens[1:]
    if rest[:2] == ["of", "the"] and len(rest) > 2 and rest[2] in NUMBERS:
        number, rest = rest[2], rest[3:]
    found = noun_phrase(rest) if number is None else noun_phrase(rest, nouns=_SINGULARS)
    return None if found is None or found[1] else Extreme(found[0], tokens[0], number)


def _ordinal(tokens: list[str]) -> Ordinal | None:
    found = noun_phrase(tokens[1:]) if tokens and tokens[0] in ORDINALS else None
    if found is None:
        return None
    noun, rest = found
    is_said = len(rest) == 3 and rest[:2] == ["from", "the"] and rest[2] in POSITIONS
    return Ordinal(noun, tokens[0], rest[2]) if is_said else None


def _group(tokens: list[str]) -> Group | None:
    word = tokens[0] if tokens and tokens[0] in _GROUP_WORDS else ""
    rest = tokens[1:] if word else tokens
    # "all the stars"; "the two stars" has lost its article already.
    if word in ("all", "both") and rest[:1] and rest[0] in ARTICLES:
        rest = rest[1:]
    found = noun_phrase(rest, nouns=_SINGULARS)
    placed = None if found is None else _placed(*found)
    return None if placed is None else Group(placed[0], word, placed[1])


def _placed(noun: Description, rest: list[str]) -> tuple[Description, Relation | None] | None:
    """What follows a noun phrase: nothing, a position, or a relation with its anchor."""
    if not rest:
        return noun, None
    for phrase in RELATIONS:
        words = phrase.split()
        if rest[: len(words)] == words:
            anchor = noun_phrase(without_article(rest[len(words) :]))
            return None if anchor is None or anchor[1] else (noun, Relation(phrase, anchor[0]))
    placed = with_position(noun, rest)
    return None if placed is None else (placed, None)
