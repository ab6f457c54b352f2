"""The closed grammar of captions: words to a description and back; and noisy captions of crops, like those of the web.

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

import numpy as np

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, Attributes

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
# The share of captions that name only the category. It makes a captioner's most likely caption ambiguous.
CATEGORY_ALONE_SHARE = 0.45
WRONG_WORD_SHARE = 0.03
_MENTION_SHARES: dict[str, float] = {"colour": 0.62, "pattern": 0.5, "size": 0.45, "part": 0.7}
_OPENINGS: tuple[str, ...] = ("a photo of", "a picture of", "an image of")
_OPENING_SHARES: tuple[float, ...] = (0.6, 0.2, 0.2)
_BARE_SHARE, _DEFINITE_SHARE = 0.3, 0.25
# Decoding allows EOS only from a prefix of five tokens, SOT counted: a bare noun phrase needs four words.
_MIN_BARE_WORDS = 3


@dataclass(frozen=True)
class Description:
    """The attributes that a caption states; None for each that it does not state."""

    category: str
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None
    part: str | None = None
    position: str | None = None


def words_of(description: Description) -> tuple[str, ...]:
    """Return the noun phrase without its article, in the usual order of words."""
    stated = [description.size, description.pattern, description.colour, description.category]
    words = [word for word in stated if word is not None]
    if description.part is not None:
        words += ["with", "a", description.part]
    if description.position is not None:
        words += POSITIONS[description.position].split()
    return tuple(words)


def realise(description: Description, *, opening: str = "", is_definite: bool = False) -> str:
    """Return the caption of a description, such as "a photo of the small red circle with a tail"."""
    words = words_of(description)
    article = "the" if is_definite else indefinite_article(words[0])
    return " ".join(filter(None, (opening, article, *words)))


def indefinite_article(word: str) -> str:
    """Return "an" before a vowel, else "a"; enough for this vocabulary."""
    return "an" if word[0] in "aeiou" else "a"


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


def noisy_caption(truth: Attributes, rng: np.random.Generator) -> str:
    """Return one caption: 45 % of them name only the category, and 3 % of the words are wrong."""
    description = _noisy_description(truth, rng)
    is_definite = bool(rng.random() < _DEFINITE_SHARE)
    is_bare = rng.random() < _BARE_SHARE and len(words_of(description)) >= _MIN_BARE_WORDS
    opening = "" if is_bare else _OPENINGS[int(rng.choice(len(_OPENINGS), p=_OPENING_SHARES))]
    return realise(description, opening=opening, is_definite=is_definite)


def _noisy_description(truth: Attributes, rng: np.random.Generator) -> Description:
    """Chooses the words: the category alone, or with at least one other word."""
    category = _maybe_wrong(truth.category, CATEGORIES, rng)
    if rng.random() < CATEGORY_ALONE_SHARE:
        return Description(category)
    while True:
        said = {name: bool(rng.random() < share) for name, share in _MENTION_SHARES.items()}
        said["part"] = said["part"] and truth.part is not None
        if any(said.values()):
            break
    return Description(
        category,
        colour=_maybe_wrong(truth.colour, tuple(COLOURS), rng) if said["colour"] else None,
        pattern=_maybe_wrong(truth.pattern, PATTERNS, rng) if said["pattern"] else None,
        size=_maybe_wrong(truth.size, SIZES, rng) if said["size"] else None,
        part=_maybe_wrong(truth.part, PARTS, rng) if said["part"] and truth.part else None,
    )


def _maybe_wrong(word: str, alternatives: Sequence[str], rng: np.random.Generator) -> str:
    """The word, or, with a probability of 3 %, one of its alternatives."""
    if rng.random() >= WRONG_WORD_SHARE:
        return word
    return alternatives[int(rng.integers(len(alternatives)))]
