"""The forms of an expression of one mask: ends of rows, sides of the picture, ordinals, relations.

Each holds by geometry with a margin against every mask that the phrase may be true of, sure or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.composing import ComposedKind
from workers.composing.geometry import SIDES, is_alone_at, is_end, maybe_lies, rank, surely_lies
from workers.composing.language import Language, NounPhrase
from workers.composing.views import ImageView, Row


@dataclass(frozen=True, slots=True)
class Composed:
    """An expression of the masks numbered `targets`.

    Attributes:
        noun: Its head.
        confidence: How likely it is right; None where shares decided.
    """

    text: str
    kind: ComposedKind
    targets: tuple[int, ...]
    noun: str
    confidence: float | None = None


Form = Callable[[ImageView, Row], Iterator[str | None]]


def _ends(view: ImageView, row: Row) -> Iterator[str | None]:
    for side in SIDES:
        if is_end(side, row.target, row.masks, view.places, view.margins):
            yield view.language.extreme(side, row.phrase)


def _ends_of_counted(view: ImageView, row: Row) -> Iterator[str | None]:
    # Of more than three nobody says "of the four": a longer row has a missed or a doubled mask too often.
    if not row.is_counted or not 1 <= len(row.rivals) <= 2:
        return
    for side in SIDES:
        if is_end(side, row.target, row.masks, view.places, view.margins):
            yield view.language.extreme_of(side, len(row.masks), row.phrase)


def _sides(view: ImageView, row: Row) -> Iterator[str | None]:
    for side in SIDES:
        if is_alone_at(side, row.target, row.masks, view.places, view.margins):
            yield view.language.at_side(side, row.phrase)


def _ordinals(view: ImageView, row: Row) -> Iterator[str | None]:
    if not row.is_counted:
        return
    for side in SIDES:
        place = rank(side, row.target, row.masks, view.places, view.margins)
        if place is not None and 1 < place < len(row.masks):
            yield view.language.ordinal(side, place, row.phrase)


def _relations(view: ImageView, row: Row) -> Iterator[str | None]:
    for anchor, phrase in view.anchors.items():
        if anchor == row.target:
            continue
        for side in SIDES:
            there = view.places[anchor]
            is_so = surely_lies(side, view.places[row.target], there, view.margins)
            if is_so and not any(maybe_lies(side, view.places[n], there, view.margins) for n in row.rivals):
                yield view.language.related(side, row.phrase, phrase)


_POSITIONS: Final[Sequence[Form]] = (_sides, _ends_of_counted, _ends, _ordinals)


def expressions_of(view: ImageView, mask: int, mask_id: str) -> list[Composed]:
    """Return up to `max_per_mask` expressions of a mask; different forms, where there are, before a second of one.

    Which form comes first changes from mask to mask, so that no form prevails; the same mask has the same every time.
    """
    kinds = view.config.kinds
    forms: list[tuple[ComposedKind, Form]] = []
    if "position" in kinds:
        start = number_of(mask_id) % len(_POSITIONS)
        forms += [("position", form) for form in (*_POSITIONS[start:], *_POSITIONS[:start])]
    if "relation" in kinds:
        forms.insert(min(len(forms), 1 - number_of(mask_id, 1) % 2), ("relation", _relations))
    # Rows with rivals first: where a phrase fits nothing else, it does without a place.
    rows = sorted(view.rows[mask], key=lambda row: not row.rivals)
    found: dict[str, Composed] = {}
    for kind, form in forms:
        first = next(_said(view, rows, form), None)
        if first is not None and len(found) < view.config.max_per_mask:
            text, noun = first
            found.setdefault(text, Composed(text, kind, (mask,), noun))
    return list(found.values())


def _said(view: ImageView, rows: Sequence[Row], form: Form) -> Iterator[tuple[str, str]]:
    for row in rows:
        if not _is_worth_it(row):
            continue
        for text in form(view, row):
            if text is not None:
                yield text, row.phrase.noun


def _is_worth_it(row: Row) -> bool:
    """Whether to place a phrase: it has rivals, or says more than a noun.

    A mask that alone bears its noun bears a wrong one too often: it looks unique because it was misnamed (measured).
    """
    return bool(row.rivals) or bool(row.phrase.words)


def number_of(mask_id: str, place: int = 0) -> int:
    """Return a number from 0 to 255 that a mask always has; another one for another place."""
    return hashlib.sha256(mask_id.encode()).digest()[place]


def groups(view: ImageView) -> Iterator[Composed]:
    """Yield expressions of several masks: a phrase that surely is true of each, and of no other; shortest first."""
    seen: set[tuple[int, ...]] = set()
    rows = (row for of_mask in view.rows for row in of_mask if row.is_counted and row.rivals)
    for row in sorted(rows, key=lambda row: (len(row.phrase.words), row.target)):
        masks = tuple(sorted(row.masks))
        text = view.language.group(len(masks), row.phrase)
        if masks not in seen and text is not None:
            seen.add(masks)
            yield Composed(text, "group", masks, row.phrase.noun)


def absent(view: ImageView) -> Iterator[Composed]:
    """Yield expressions of nothing: what is true of one mask said of another's noun, true of no mask at all.

    "The red circle" in the picture of a red star and a blue circle: a trainer's hardest negative.
    """
    nouns = dict.fromkeys(rows[0].phrase.noun for rows in view.rows if rows)
    said = dict.fromkeys(row.phrase for rows in view.rows for row in rows if row.phrase.words)
    seen: set[str] = set()
    for noun, phrase in ((noun, phrase) for phrase in said for noun in nouns):
        swapped = with_noun(view.language, phrase, noun)
        text = None if swapped is None else view.language.definite(swapped)
        if swapped is not None and text is not None and text not in seen and view.fits_nothing(swapped):
            seen.add(text)
            yield Composed(text, "none", (), noun)


def with_noun(language: Language, phrase: NounPhrase, noun: str) -> NounPhrase | None:
    """Return the phrase with another noun; None where it is its own, or the language reads no noun phrase there."""
    words = [noun if word == phrase.noun else word for word in phrase.text.split()]
    return None if noun == phrase.noun else language.noun_phrase(" ".join(words), noun)
