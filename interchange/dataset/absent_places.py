"""Gives absences a place. Called by `rewording`. A thing that is not in an image is not "on the left" of it either.

The composer's absences have no place, and its other expressions often have one. A model that learns from both would
learn that a text with a place always refers to something. So half of the drawn absences get a place. A text that a
rule gives must refer to nothing in every picture in which the absence does, whatever its anchor refers to:

    side        the red circle on the left
    end         the leftmost red circle
    rank        the second red circle from the left, the left of the two red circles
    relation    the red circle above the star
    anchor      the star above the red circle

A text stays if it is no noun phrase of the templates (`pseudoris.primitives.noun_phrases`), or has a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from pseudoris.primitives import place_phrases
from pseudoris.primitives.counter_rng import draw_below
from pseudoris.primitives.english import ARTICLES, PICTURES, PLACES
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.noun_phrases import NounPhrase, noun_phrase

_SIDES: Final[tuple[place_phrases.Side, ...]] = get_args(place_phrases.Side)
_FORMS: Final = ("side", "end", "rank", "relation", "anchor")
# This many choices keep the plain text, as many as add a place: about half of the other expressions have a place.
_NUM_PLAIN: Final = len(_FORMS)
# At most this many other texts are tried as the anchor, until one of them is a noun phrase.
_NUM_TRIED: Final = 6
# Each draw of a text uses this many random numbers, so the next draw begins after them.
_NUMBERS_A_DRAW: Final = 3 + _NUM_TRIED
# These words may stand before the noun phrase of a text: "a photo of the".
_OPENINGS: Final = ARTICLES | PICTURES | {"of"}


def placed_absence(text: str, others: Sequence[str], *, key: int, turn: int) -> str:
    """Return an absence with a place, or as it is, as draw `turn` of a key says.

    `others` are texts of the same image. One of them, a noun phrase without a place, becomes the other side of a
    relation.
    """
    first = turn * _NUMBERS_A_DRAW
    form = draw_below(key, first, len(_FORMS) + _NUM_PLAIN)
    phrase = _phrase(text)
    if form >= len(_FORMS) or phrase is None:
        return text
    side, rank = _SIDES[draw_below(key, first + 1, len(_SIDES))], 1 + draw_below(key, first + 2, 3)
    said: str | None = None
    if _FORMS[form] == "side":
        said = place_phrases.at_side(side, phrase)
    elif _FORMS[form] == "end":
        said = place_phrases.extreme(side, phrase)
    elif _FORMS[form] == "rank":
        said = place_phrases.extreme_of(side, 2, phrase) if rank == 1 else place_phrases.ordinal(side, rank, phrase)
    else:
        numbers = range(first + 3, first + _NUMBERS_A_DRAW) if others else ()
        tried = (_phrase(others[draw_below(key, number, len(others))]) for number in numbers)
        if (other := next(filter(None, tried), None)) is not None:
            pair = (phrase, other) if _FORMS[form] == "relation" else (other, phrase)
            said = place_phrases.related(side, *pair)
    return said or text


def _phrase(text: str) -> NounPhrase | None:
    """Return the noun phrase that a text consists of; None if it has a place or names another thing."""
    found = noun_phrase(text, head_noun(text))
    if found is None or found.number == "several" or not f" {text}".endswith(f" {found.text}"):
        return None
    if not _OPENINGS.issuperset(text.removesuffix(found.text).split()):
        return None
    return None if "the" in found.text.split() or not PLACES.isdisjoint(text.split()) else found
