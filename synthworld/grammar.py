"""The closed grammar of captions: reads the description that a caption states. `recipes.scene_texts` writes captions.

    caption      := [opening] noun phrase
    opening      := "a photo of" | "a picture of" | "an image of" | "there is" | "this is"
    noun phrase  := [article] adjective* category ["with" [article] part] [position]
    adjective    := size | pattern | colour, each at most once, in any order
    position     := "on the left" | "on the right" | "at the top" | "at the bottom"

Other captions cannot be parsed. They refer to nothing, so they are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES

OPENINGS: tuple[str, ...] = ("a photo of", "a picture of", "an image of", "there is", "this is")
POSITIONS: dict[str, str] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
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


def parse(caption: str) -> Description | None:
    """Return the description in a caption, or None if the grammar does not allow the caption."""
    found = noun_phrase(without_article(without_opening(caption.lower().split())))
    if found is None:
        return None
    description, rest = found
    return with_position(description, rest) if rest else description


def noun_phrase(
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
    part, following = _part(rest[1:])
    return Description(category=nouns[rest[0]], part=part, **stated), following


def with_position(description: Description, tokens: Sequence[str]) -> Description | None:
    """Return the description at the place that `tokens` name; None if they name no place."""
    position = next((name for name, phrase in POSITIONS.items() if phrase.split() == list(tokens)), None)
    return None if position is None else replace(description, position=position)


def without_article(tokens: list[str]) -> list[str]:
    """Return the tokens after an article, if there is one."""
    return tokens[1:] if tokens[:1] and tokens[0] in ARTICLES else tokens


def without_opening(tokens: list[str]) -> list[str]:
    """Return the tokens after an opening, if there is one."""
    for opening in OPENINGS:
        words = opening.split()
        if tokens[: len(words)] == words:
            return tokens[len(words) :]
    return tokens


def _part(tokens: list[str]) -> tuple[str | None, list[str]]:
    """Reads "with [article] part"; returns the part and what follows, or None and the tokens as they were."""
    if tokens[:1] != ["with"]:
        return None, tokens
    rest = tokens[2:] if tokens[1:2] and tokens[1] in ARTICLES else tokens[1:]
    if rest and rest[0] in PARTS:
        return rest[0], rest[1:]
    return None, tokens
