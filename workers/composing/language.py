"""The functions that the composer needs for a language; a module that has them is a `Language`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pseudoris.workers.composing.geometry import Side


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


class Language(Protocol):
    """Reads noun phrases and fills templates; returns None if the language has no such form of a phrase."""

    def noun_phrase(self, caption: str, noun: str | None) -> NounPhrase | None:
        """Return the noun phrase of a caption (lower case, as in the tables) whose head noun is known."""

    def extreme(self, side: Side, phrase: NounPhrase) -> str | None:
        """Return "the leftmost circle"."""

    def extreme_of(self, side: Side, number: int, phrase: NounPhrase) -> str | None:
        """Return "the left of the two circles"."""

    def ordinal(self, side: Side, rank: int, phrase: NounPhrase) -> str | None:
        """Return "the second circle from the left"."""

    def at_side(self, side: Side, phrase: NounPhrase) -> str | None:
        """Return "the circle on the left"."""

    def related(self, side: Side, phrase: NounPhrase, anchor: NounPhrase) -> str | None:
        """Return "the circle above the star"."""

    def group(self, number: int, phrase: NounPhrase) -> str | None:
        """Return "the two circles"."""

    def definite(self, phrase: NounPhrase) -> str | None:
        """Return "the circle"."""
