"""Adds composed expressions to annotated images: a pure function of what the tables hold of them.

It reads masks, candidates and their scores, and never `kept`: another rule of what is kept (`refilter`) changes nothing
of what is composed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from schemas.composing import ComposingConfig, PosteriorConfig
from schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from workers.composing import english
from workers.composing.forms import Composed, absent, expressions_of, groups
from workers.composing.language import Language
from workers.composing.likelihood import likelihood_of
from workers.composing.views import drawn_by_mask, view_of
from workers.composing.weighed import weighed_absences, weighed_expressions, weighed_groups

# Of one mask each, of several, of none.
_Said = tuple[Iterator[Composed], Iterator[Composed], Iterator[Composed]]

_LANGUAGES: Final[dict[str, Language]] = {"english": english}


class Composer:
    """Composes for one image after the other; the same image gives the same expressions."""

    def __init__(self, config: ComposingConfig) -> None:
        """Take the settings."""
        self._config = config
        self._language = _LANGUAGES[config.language]

    def __call__(self, image: ShardImage) -> ShardImage:
        """Return the image with its composed expressions last, in the order of masks, then groups, then absences.

        They are kept: the composer writes down only what its rules stand for. Any that it had before are dropped first.
        """
        given = tuple(each for each in image.expressions if each.source != SOURCE_COMPOSER)
        plain = replace(image, expressions=given)
        # What somebody has drawn or written already is no news.
        taken = {(each.target_mask_ids, each.text) for each in given}
        composed = []
        for each in self._composed(plain):
            record = _record(each, image)
            if (record.target_mask_ids, record.text) not in taken:
                taken.add((record.target_mask_ids, record.text))
                composed.append(record)
        return replace(image, expressions=(*given, *composed))

    def _composed(self, image: ShardImage) -> Iterator[Composed]:
        weights = self._config.posterior
        said = self._by_shares(image) if weights is None else self._by_probability(image, weights)
        of_masks, of_several, of_nothing = said
        yield from of_masks
        if "group" in self._config.kinds:
            yield from islice(of_several, self._config.max_per_image)
        if "none" in self._config.kinds:
            yield from islice(of_nothing, self._config.max_per_image)

    def _by_shares(self, image: ShardImage) -> _Said:
        view = view_of(image, self._language, self._config)
        of_masks = (each for n, mask in enumerate(image.masks) for each in expressions_of(view, n, mask.mask_id))
        return of_masks, groups(view), absent(view)

    def _by_probability(self, image: ShardImage, weights: PosteriorConfig) -> _Said:
        view = likelihood_of(image.masks, drawn_by_mask(image), self._language, self._config, weights)
        of_masks = (each for n, mask in enumerate(image.masks) for each in weighed_expressions(view, n, mask.mask_id))
        return of_masks, weighed_groups(view), weighed_absences(view)


def _record(composed: Composed, image: ShardImage) -> ExpressionRecord:
    return ExpressionRecord(
        target_mask_ids=tuple(image.masks[number].mask_id for number in composed.targets),
        text=composed.text,
        samples=(),
        kind=composed.kind,
        head_noun=composed.noun,
        confidence=composed.confidence,
        kept=True,
        source=SOURCE_COMPOSER,
    )
