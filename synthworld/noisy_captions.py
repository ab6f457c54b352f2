"""Noisy captions for crops, like those of the web: mostly short, sometimes wrong, never about position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, Attributes
from pseudoris.synthworld.grammar import Description, realise, words_of

# The share that names the category alone is what makes a captioner's likeliest caption ambiguous.
CATEGORY_ALONE_SHARE = 0.45
WRONG_WORD_SHARE = 0.03
_MENTION_SHARES: dict[str, float] = {"colour": 0.62, "pattern": 0.5, "size": 0.45, "part": 0.7}
_OPENINGS: tuple[str, ...] = ("a photo of", "a picture of", "an image of")
_OPENING_SHARES: tuple[float, ...] = (0.6, 0.2, 0.2)
_BARE_SHARE, _DEFINITE_SHARE = 0.3, 0.25
# Decoding allows EOS only from a prefix of five tokens, SOT counted: a bare noun phrase needs four words.
_MIN_BARE_WORDS = 3


def noisy_caption(truth: Attributes, rng: np.random.Generator) -> str:
    """Return one caption: 45 % of them name the category alone, and 3 % of the words said are wrong."""
    description = _noisy_description(truth, rng)
    is_definite = bool(rng.random() < _DEFINITE_SHARE)
    is_bare = rng.random() < _BARE_SHARE and len(words_of(description)) >= _MIN_BARE_WORDS
    opening = "" if is_bare else _OPENINGS[int(rng.choice(len(_OPENINGS), p=_OPENING_SHARES))]
    return realise(description, opening=opening, is_definite=is_definite)


def _noisy_description(truth: Attributes, rng: np.random.Generator) -> Description:
    """Chooses what is said, at least one word beside the category unless the category stands alone."""
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
