"""What is said of a scene: captions as the web has them, and references in words, for the recipes and experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

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
    Attributes,
)
from pseudoris.synthworld.grammar import POSITIONS, Description, Extreme, Group, Ordinal, Reference, Relation
from pseudoris.synthworld.scenes import Scene

# The share of captions that name only the category. It makes a captioner's most likely caption ambiguous.
CATEGORY_ALONE_SHARE = 0.45
WRONG_WORD_SHARE = 0.03
_MENTION_SHARES: dict[str, float] = {"colour": 0.62, "pattern": 0.5, "size": 0.45, "part": 0.7}
_OPENINGS: tuple[str, ...] = ("a photo of", "a picture of", "an image of")
_OPENING_SHARES: tuple[float, ...] = (0.6, 0.2, 0.2)
_BARE_SHARE, _DEFINITE_SHARE = 0.3, 0.25
# Decoding allows EOS only from a prefix of five tokens, SOT counted: a bare noun phrase needs four words.
_MIN_BARE_WORDS = 3
# Of the four of a scene.
_SPEECH_STREAM = 2
_SMALL_WORDS: tuple[str, ...] = ("on", "at", "from", "to", "of", "all", "both", "there", "this", "is")


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


def to_text(reference: Reference, *, article: str = "the") -> str:
    """Return the text of a reference, such as "the left of the two dotted circles"; `parse_reference` reads it back."""
    return " ".join(word for word in (article, *_words(reference)) if word)


def _words(reference: Reference) -> tuple[str, ...]:
    if isinstance(reference, Extreme):
        if reference.number is None:
            return (reference.word, *words_of(reference.noun))
        return (reference.word, "of", "the", reference.number, *_plural(reference.noun))
    if isinstance(reference, Ordinal):
        return (reference.word, *words_of(reference.noun), "from", "the", reference.side)
    if isinstance(reference, Group):
        return (reference.word, *_plural(reference.noun), *_relation(reference.relation))
    return (*words_of(reference.noun), *_relation(reference.relation))


def _relation(relation: Relation | None) -> tuple[str, ...]:
    """The relation and its anchor, which is always definite."""
    return () if relation is None else (*relation.phrase.split(), "the", *words_of(relation.anchor))


def _plural(noun: Description) -> tuple[str, ...]:
    words = list(words_of(replace(noun, part=None, position=None)))
    words[-1] = PLURALS[noun.category]
    if noun.part is not None:
        words += ["with", "a", noun.part]
    if noun.position is not None:
        words += POSITIONS[noun.position].split()
    return tuple(words)


def _maybe_wrong(word: str, alternatives: Sequence[str], rng: np.random.Generator) -> str:
    """The word, or, with a probability of 3 %, one of its alternatives."""
    if rng.random() >= WRONG_WORD_SHARE:
        return word
    return alternatives[int(rng.integers(len(alternatives)))]


# Returns a word, or one of its alternatives in its place.
Wrong = Callable[[str, Sequence[str], np.random.Generator], str]


def noisy_caption(truth: Attributes, rng: np.random.Generator) -> str:
    """Return one caption: 45 % of them name only the category, and 3 % of the words are wrong."""
    description = noisy_description(truth, rng)
    is_definite = bool(rng.random() < _DEFINITE_SHARE)
    is_bare = rng.random() < _BARE_SHARE and len(words_of(description)) >= _MIN_BARE_WORDS
    opening = "" if is_bare else _OPENINGS[int(rng.choice(len(_OPENINGS), p=_OPENING_SHARES))]
    return realise(description, opening=opening, is_definite=is_definite)


def noisy_description(truth: Attributes, rng: np.random.Generator, *, wrong: Wrong = _maybe_wrong) -> Description:
    """Return the words of a caption: the category alone, or with at least one other word; some are `wrong`."""
    category = wrong(truth.category, CATEGORIES, rng)
    if rng.random() < CATEGORY_ALONE_SHARE:
        return Description(category)
    while True:
        said = {name: bool(rng.random() < share) for name, share in _MENTION_SHARES.items()}
        said["part"] = said["part"] and truth.part is not None
        if any(said.values()):
            break
    return Description(
        category,
        colour=wrong(truth.colour, tuple(COLOURS), rng) if said["colour"] else None,
        pattern=wrong(truth.pattern, PATTERNS, rng) if said["pattern"] else None,
        size=wrong(truth.size, SIZES, rng) if said["size"] else None,
        part=wrong(truth.part, PARTS, rng) if said["part"] and truth.part else None,
    )


def expression_words() -> tuple[str, ...]:
    """Return every word of an expression that no caption of a crop uses, each once, in a fixed order.

    A model that reads expressions needs a token for each of them, even if it was never trained on captions with that
    word.
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


def speech_generator(scene: Scene, speaker: int) -> np.random.Generator:
    """Return the generator for the expressions of one speaker, counted from 0, about a scene."""
    key = np.array([scene.seed, 4 * scene.index + _SPEECH_STREAM], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, speaker]))
