"""What people say of an object: short, unambiguous, in about every second expression a place or a relation.

They speak as in RefCOCO's game, where a listener sees the picture too and has to click on the object: few attributes,
now and then one more than needed, and a side of the picture or a neighbour as readily as a word. Every expression is
the oracle's own: it means its object and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synthworld.references import Extreme, Ordinal, Reference, say
from synthworld.scenes import Scene, speech_generator
from synthworld.utterances import ATTRIBUTE, RELATION, Utterance, num_words, utterances

# Of two to three expressions an object.
MIN_EXPRESSIONS, MAX_EXPRESSIONS = 2, 3
_PLACED_SHARE: Final = 0.5
# Among the expressions with a place or a relation.
_FORM_SHARES: Final[dict[str, float]] = {"third": 0.35, "extreme": 0.25, "of": 0.1, "ordinal": 0.05, RELATION: 0.25}
# How much less likely an expression is for each attribute more than the fewest of its form.
_BREVITY: Final = 0.15
_ARTICLES: Final[dict[str, float]] = {"the": 0.7, "": 0.3}
# What a text tower of sixteen tokens reads whole: "leftmost" and "triangles" are two tokens, the ends one each.
MAX_WORDS: Final = 12


@dataclass(frozen=True)
class Expression:
    """A text, its kind as the tables name it, and the numbers of the objects it means."""

    text: str
    kind: str
    targets: frozenset[int]


def person_expressions(scene: Scene, number: int) -> tuple[Expression, ...]:
    """Return two or three different expressions of an object, the same on every machine.

    Fewer where the grammar has no more, none where nobody could tell the object from another one by words or place.
    """
    rng = speech_generator(scene, number)
    wanted = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    pool = [each for each in utterances(scene, number) if num_words(each) <= MAX_WORDS]
    found: dict[str, Expression] = {}
    for _ in range(wanted):
        if not pool:
            break
        drawn = _draw(pool, rng)
        pool.remove(drawn)
        text = say(drawn.reference, article=_article(drawn.reference, rng))
        found[text] = Expression(text, drawn.kind, frozenset((number,)))
    return tuple(found.values())


def _draw(pool: Sequence[Utterance], rng: np.random.Generator) -> Utterance:
    """First the form, by its share among those there are, then one of it, the shorter the likelier."""
    forms = list(dict.fromkeys(each.form for each in pool))
    placed = [_FORM_SHARES[form] for form in forms if form != ATTRIBUTE]
    shares = [
        1 - _PLACED_SHARE if form == ATTRIBUTE else _PLACED_SHARE * _FORM_SHARES[form] / sum(placed) for form in forms
    ]
    form = forms[int(rng.choice(len(forms), p=_shares(shares)))]
    among = [each for each in pool if each.form == form]
    fewest = min(each.num_attributes for each in among)
    weights = [_BREVITY ** (each.num_attributes - fewest) for each in among]
    return among[int(rng.choice(len(among), p=_shares(weights)))]


def _article(reference: Reference, rng: np.random.Generator) -> str:
    """Often none before a noun phrase, always one before "left of the two stars" and "second star from the left"."""
    if isinstance(reference, Ordinal) or (isinstance(reference, Extreme) and reference.number is not None):
        return "the"
    return str(rng.choice(list(_ARTICLES), p=list(_ARTICLES.values())))


def _shares(weights: Sequence[float]) -> np.ndarray:
    """Weights as probabilities."""
    values = np.array(weights, dtype=np.float64)
    return np.asarray(values / values.sum())
