"""Expressions chosen by shares of votes: of one mask (ends of rows, sides, ordinals, relations), of several, of none.

Geometry separates the target, with a margin, from every other mask that the phrase may be true of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pseudoris.schemas.composer_settings import ComposedKind
from pseudoris.workers.composing.geometry import SIDES, is_alone_at, is_end, maybe_lies, rank, surely_lies
from pseudoris.workers.composing.image_view import ImageView, PhraseRow
from pseudoris.workers.composing.language import Language, NounPhrase


@dataclass(frozen=True, slots=True)
class ComposedExpression:
    """An expression before it becomes a record of the table.

    Attributes:
        targets: Numbers of its masks; empty for a no-target expression.
        noun: Its head noun.
        confidence: The probability that it is right; None if shares decided.
    """

    text: str
    kind: ComposedKind
    targets: tuple[int, ...]
    noun: str
    confidence: float | None = None


Form = Callable[[ImageView, PhraseRow], Iterator[str | None]]


def _ends(view: ImageView, row: PhraseRow) -> Iterator[str | None]:
    for side in SIDES:
        if is_end(side, row.target, row.masks, view.positions, view.margins):
            yield view.language.extreme(side, row.phrase)


def _ends_of_counted(view: ImageView, row: PhraseRow) -> Iterator[str | None]:
    # At most three, because a longer row too often has a missed or a doubled mask.
    if not row.is_counted or not 1 <= len(row.rivals) <= 2:
        return
    for side in SIDES:
        if is_end(side, row.target, row.masks, view.positions, view.margins):
            yield view.language.extreme_of(side, len(row.masks), row.phrase)


def _sides(view: ImageView, row: PhraseRow) -> Iterator[str | None]:
    for side in SIDES:
        if is_alone_at(side, row.target, row.masks, view.positions, view.margins):
            yield view.language.at_side(side, row.phrase)


def _ordinals(view: ImageView, row: PhraseRow) -> Iterator[str | None]:
    if not row.is_counted:
        return
    for side in SIDES:
        number = rank(side, row.target, row.masks, view.positions, view.margins)
        if number is not None and 1 < number < len(row.masks):
            yield view.language.ordinal(side, number, row.phrase)


def _relations(view: ImageView, row: PhraseRow) -> Iterator[str | None]:
    for anchor, phrase in view.anchors.items():
        if anchor == row.target:
            continue
        for side in SIDES:
            there = view.positions[anchor]
            is_so = surely_lies(side, view.positions[row.target], there, view.margins)
            if is_so and not any(maybe_lies(side, view.positions[n], there, view.margins) for n in row.rivals):
                yield view.language.related(side, row.phrase, phrase)


_POSITIONS: Final[Sequence[Form]] = (_sides, _ends_of_counted, _ends, _ordinals)


def expressions_of(view: ImageView, mask: int, mask_id: str) -> list[ComposedExpression]:
    """Return up to `max_per_mask` expressions of a mask, each of a different form.

    The mask id decides which form comes first, so that no form dominates and a mask always gets the same expressions.
    """
    kinds = view.config.kinds
    forms: list[tuple[ComposedKind, Form]] = []
    if "position" in kinds:
        start = id_byte(mask_id) % len(_POSITIONS)
        forms += [("position", form) for form in (*_POSITIONS[start:], *_POSITIONS[:start])]
    if "relation" in kinds:
        forms.insert(min(len(forms), 1 - id_byte(mask_id, 1) % 2), ("relation", _relations))
    # Rows with rivals first: a phrase that fits no other mask needs no position.
    rows = sorted(view.rows[mask], key=lambda row: not row.rivals)
    found: dict[str, ComposedExpression] = {}
    for kind, form in forms:
        first = next(_said(view, rows, form), None)
        if first is not None and len(found) < view.config.max_per_mask:
            text, noun = first
            found.setdefault(text, ComposedExpression(text, kind, (mask,), noun))
    return list(found.values())


def _said(view: ImageView, rows: Sequence[PhraseRow], form: Form) -> Iterator[tuple[str, str]]:
    for row in rows:
        if not _is_worth_it(row):
            continue
        for text in form(view, row):
            if text is not None:
                yield text, row.phrase.noun


def _is_worth_it(row: PhraseRow) -> bool:
    """Whether to add a position to a phrase: only if it has rivals, or more words than a noun.

    A bare noun that fits only one mask is too often wrong: the mask seems unique because it was misnamed (measured).
    """
    return bool(row.rivals) or bool(row.phrase.words)


def id_byte(mask_id: str, index: int = 0) -> int:
    """Return a byte of the hash of a mask id, for a choice that is the same in every run."""
    return hashlib.sha256(mask_id.encode()).digest()[index]


def group_expressions(view: ImageView) -> Iterator[ComposedExpression]:
    """Yield expressions of several masks, the shortest first: surely true of each of them and of no other mask."""
    seen: set[tuple[int, ...]] = set()
    rows = (row for of_mask in view.rows for row in of_mask if row.is_counted and row.rivals)
    for row in sorted(rows, key=lambda row: (len(row.phrase.words), row.target)):
        masks = tuple(sorted(row.masks))
        text = view.language.group(len(masks), row.phrase)
        if masks not in seen and text is not None:
            seen.add(masks)
            yield ComposedExpression(text, "group", masks, row.phrase.noun)


def absent_expressions(view: ImageView) -> Iterator[ComposedExpression]:
    """Yield no-target expressions: the words of one mask with the noun of another, surely true of no mask.

    "The red circle" in an image of a red star and a blue circle: the hardest negative for a trainer.
    """
    nouns = dict.fromkeys(rows[0].phrase.noun for rows in view.rows if rows)
    said = dict.fromkeys(row.phrase for rows in view.rows for row in rows if row.phrase.words)
    seen: set[str] = set()
    for noun, phrase in ((noun, phrase) for phrase in said for noun in nouns):
        swapped = with_noun(view.language, phrase, noun)
        text = None if swapped is None else view.language.definite(swapped)
        if swapped is not None and text is not None and text not in seen and view.fits_nothing(swapped):
            seen.add(text)
            yield ComposedExpression(text, "none", (), noun)


def with_noun(language: Language, phrase: NounPhrase, noun: str) -> NounPhrase | None:
    """Return the phrase with another noun; None if the noun is the same, or the result is not a noun phrase."""
    words = [noun if word == phrase.noun else word for word in phrase.text.split()]
    return None if noun == phrase.noun else language.noun_phrase(" ".join(words), noun)
