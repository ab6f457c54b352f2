"""An image as the composer sees it: what the captions call each mask, and where each mask is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pseudoris.schemas.composer_settings import ComposingConfig
from pseudoris.schemas.shard import SOURCE_MODEL, ExpressionRecord, ShardImage
from pseudoris.workers.composing.caption_votes import CaptionVotes, VoteBounds, possible_rivals, votes_of
from pseudoris.workers.composing.geometry import Margins, MaskPosition, position_of
from pseudoris.workers.composing.language import Language, NounPhrase


@dataclass(frozen=True)
class PhraseRow:
    """A phrase that is surely true of a target mask, and the other masks that it may be true of.

    Attributes:
        target: Number of the target mask.
        rivals: Numbers of the other masks.
        is_counted: Whether the phrase is surely true of all rivals, so that an expression can state their number.
    """

    target: int
    phrase: NounPhrase
    rivals: tuple[int, ...]
    is_counted: bool

    @property
    def masks(self) -> tuple[int, ...]:
        """The target and its rivals, the target first."""
        return (self.target, *self.rivals)


@dataclass(frozen=True)
class ImageView:
    """The masks of an image, numbered in order: the caption votes and the position of each."""

    votes: Sequence[CaptionVotes]
    positions: Mapping[int, MaskPosition]
    language: Language
    config: ComposingConfig

    @cached_property
    def bounds(self) -> VoteBounds:
        """The shares of votes that decide."""
        c = self.config
        return VoteBounds(min_noun=c.min_noun, max_noun=c.max_noun, min_word=c.min_word, max_word=c.max_word)

    @cached_property
    def margins(self) -> Margins:
        """Bounds for what is too close to decide."""
        return Margins(self.config.min_gap, self.config.max_slant)

    @cached_property
    def rows(self) -> Sequence[Sequence[PhraseRow]]:
        """By mask, a row for each phrase that is surely true of it, ordered by fewest words, then most votes."""
        return [[self._row(mask, phrase) for phrase in self._phrases(mask)] for mask in range(len(self.votes))]

    @cached_property
    def anchors(self) -> Mapping[int, NounPhrase]:
        """By mask, the first phrase that is surely true of it and of no other mask; masks without one are absent."""
        found = {}
        for mask, rows in enumerate(self.rows):
            mask_votes = self.votes[mask]
            is_sure = mask_votes.noun is not None and mask_votes.nouns[mask_votes.noun] >= self.config.min_anchor_noun
            phrase = next((row.phrase for row in rows if not row.rivals), None)
            if is_sure and phrase is not None:
                found[mask] = phrase
        return found

    def fits_nothing(self, phrase: NounPhrase) -> bool:
        """Return whether a phrase is surely true of no mask."""
        return not any(mask_votes.may_fit(phrase, self.bounds) for mask_votes in self.votes)

    def _phrases(self, mask: int) -> Iterator[NounPhrase]:
        mask_votes = self.votes[mask]
        noun = mask_votes.noun
        alone = None if noun is None else self.language.noun_phrase(noun, noun)
        drawn = [phrase for phrase, _ in mask_votes.phrases if 0 < len(phrase.words) <= self.config.max_words]
        # A stable sort: among phrases of the same length the most frequent stays first.
        for phrase in sorted([*([alone] if alone else []), *drawn], key=lambda phrase: len(phrase.words)):
            if mask_votes.surely_fits(phrase, self.bounds):
                yield phrase

    def _row(self, mask: int, phrase: NounPhrase) -> PhraseRow:
        rivals = possible_rivals(phrase, mask, self.votes, self.bounds)
        is_counted = all(self.votes[rival].surely_fits(phrase, self.bounds) for rival in rivals)
        return PhraseRow(mask, phrase, tuple(rivals), is_counted)


def is_drawn(expression: ExpressionRecord) -> bool:
    """Return whether the captioner drew an expression for one mask."""
    return expression.source == SOURCE_MODEL and len(expression.target_mask_ids) == 1


def drawn_by_mask(image: ShardImage) -> Mapping[str, Sequence[ExpressionRecord]]:
    """Return the captioner's candidates by mask id; a mask without any is absent."""
    drawn: defaultdict[str, list[ExpressionRecord]] = defaultdict(list)
    for expression in image.expressions:
        if is_drawn(expression):
            drawn[expression.target_mask_ids[0]].append(expression)
    return drawn


def view_of(image: ShardImage, language: Language, config: ComposingConfig) -> ImageView:
    """Return the view of an image after the filter stage; expressions of other sources are ignored."""
    drawn = drawn_by_mask(image)
    votes = [votes_of(drawn.get(mask.mask_id, ()), language.noun_phrase) for mask in image.masks]
    positions = {number: position_of(mask) for number, mask in enumerate(image.masks)}
    return ImageView(votes, positions, language, config)
