"""An image as the composer sees it: what each mask was called, and where it lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from schemas.composing import ComposingConfig
from schemas.shard import SOURCE_MODEL, ExpressionRecord, ShardImage
from workers.composing.geometry import Margins, Place, place_of
from workers.composing.language import Language, NounPhrase
from workers.composing.speech import Doubt, Speech, rivals_of, speech_of


@dataclass(frozen=True)
class Row:
    """A phrase that is surely true of a target, and the other masks, by number, that it may be true of.

    Attributes:
        is_counted: Whether it surely is true of all of them, so that their number can be said.
    """

    target: int
    phrase: NounPhrase
    rivals: tuple[int, ...]
    is_counted: bool

    @property
    def masks(self) -> tuple[int, ...]:
        """All of them, the target first."""
        return (self.target, *self.rivals)


@dataclass(frozen=True)
class ImageView:
    """The masks of an image, numbered in their order: what was drawn for each, and its place."""

    speeches: Sequence[Speech]
    places: Mapping[int, Place]
    language: Language
    config: ComposingConfig

    @cached_property
    def doubt(self) -> Doubt:
        """What shares decide."""
        c = self.config
        return Doubt(min_noun=c.min_noun, max_noun=c.max_noun, min_word=c.min_word, max_word=c.max_word)

    @cached_property
    def margins(self) -> Margins:
        """What is too close to call."""
        return Margins(self.config.min_gap, self.config.max_slant)

    @cached_property
    def rows(self) -> Sequence[Sequence[Row]]:
        """By mask, a row for each phrase that is surely true of it: the fewest words first, then the most drawn."""
        return [[self._row(mask, phrase) for phrase in self._phrases(mask)] for mask in range(len(self.speeches))]

    @cached_property
    def anchors(self) -> Mapping[int, NounPhrase]:
        """By mask, the first phrase that surely is true of it and of nothing else; masks without one are absent."""
        found = {}
        for mask, rows in enumerate(self.rows):
            speech = self.speeches[mask]
            is_sure = speech.noun is not None and speech.nouns[speech.noun] >= self.config.min_anchor_noun
            phrase = next((row.phrase for row in rows if not row.rivals), None)
            if is_sure and phrase is not None:
                found[mask] = phrase
        return found

    def fits_nothing(self, phrase: NounPhrase) -> bool:
        """Return whether a phrase surely is true of no mask."""
        return not any(speech.maybe(phrase, self.doubt) for speech in self.speeches)

    def _phrases(self, mask: int) -> Iterator[NounPhrase]:
        speech = self.speeches[mask]
        noun = speech.noun
        alone = None if noun is None else self.language.noun_phrase(noun, noun)
        drawn = [phrase for phrase, _ in speech.phrases if 0 < len(phrase.words) <= self.config.max_words]
        # Stable: of as many words the most frequent stays first.
        for phrase in sorted([*([alone] if alone else []), *drawn], key=lambda phrase: len(phrase.words)):
            if speech.surely(phrase, self.doubt):
                yield phrase

    def _row(self, mask: int, phrase: NounPhrase) -> Row:
        rivals = rivals_of(phrase, mask, self.speeches, self.doubt)
        is_counted = all(self.speeches[rival].surely(phrase, self.doubt) for rival in rivals)
        return Row(mask, phrase, tuple(rivals), is_counted)


def is_drawn(expression: ExpressionRecord) -> bool:
    """Return whether the captioner drew an expression, of one mask."""
    return expression.source == SOURCE_MODEL and len(expression.target_mask_ids) == 1


def drawn_by_mask(image: ShardImage) -> Mapping[str, Sequence[ExpressionRecord]]:
    """Return what the captioner drew for each mask that it drew something for, by mask id."""
    drawn: defaultdict[str, list[ExpressionRecord]] = defaultdict(list)
    for expression in image.expressions:
        if is_drawn(expression):
            drawn[expression.target_mask_ids[0]].append(expression)
    return drawn


def view_of(image: ShardImage, language: Language, config: ComposingConfig) -> ImageView:
    """Return the view of an image after the filter stage; what is no captioner's draw is not looked at."""
    drawn = drawn_by_mask(image)
    speeches = [speech_of(drawn.get(mask.mask_id, ()), language.noun_phrase) for mask in image.masks]
    places = {number: place_of(mask) for number, mask in enumerate(image.masks)}
    return ImageView(speeches, places, language, config)
