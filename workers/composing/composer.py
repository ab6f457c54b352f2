"""Adds composed expressions to annotated images; also the filter stage that does so after a scorer.

The result depends on masks, candidates and scores, never on `kept`: another keep rule (`refilter`) does not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np

from pseudoris.schemas.composer_settings import ComposingConfig, PosteriorConfig
from pseudoris.schemas.pair_weight import WeightLine, line_weights
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, Shard, ShardImage
from pseudoris.workers.composing import english
from pseudoris.workers.composing.expression_ranking import ranked_absences, ranked_expressions, ranked_groups
from pseudoris.workers.composing.image_view import drawn_by_mask, view_of
from pseudoris.workers.composing.language import Language
from pseudoris.workers.composing.likelihood import likelihood_of
from pseudoris.workers.composing.phrase_forms import (
    ComposedExpression,
    absent_expressions,
    expressions_of,
    group_expressions,
)
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.stages import STAGE_FILTER

# Expressions of one mask each, of several masks, of no mask.
_Streams = tuple[Iterator[ComposedExpression], Iterator[ComposedExpression], Iterator[ComposedExpression]]

_LANGUAGES: Final[dict[str, Language]] = {"english": english}


class Composer:
    """Composes expressions image by image. The same image gives the same expressions."""

    def __init__(self, config: ComposingConfig, line: WeightLine | None = None) -> None:
        """Take the settings, and the line from confidence to weight; None gives every expression the weight 1."""
        self._config, self._line = config, line
        self._language = _LANGUAGES[config.language]

    def __call__(self, image: ShardImage) -> ShardImage:
        """Return the image with composed expressions added last: those of one mask, then of several, then of none.

        All of them are kept. Composed expressions that the image already had are replaced.
        """
        given = tuple(each for each in image.expressions if each.source != SOURCE_COMPOSER)
        plain = replace(image, expressions=given)
        # A text that a mask already has is not composed again.
        taken = {(each.target_mask_ids, each.text) for each in given}
        composed = []
        for each in self._composed(plain):
            record = _record(each, image)
            if (record.target_mask_ids, record.text) not in taken:
                taken.add((record.target_mask_ids, record.text))
                composed.append(record)
        return replace(image, expressions=(*given, *self._weighed(composed)))

    def _weighed(self, composed: Sequence[ExpressionRecord]) -> Iterator[ExpressionRecord]:
        confidence = np.array([np.nan if each.confidence is None else each.confidence for each in composed], np.float64)
        for each, weight in zip(composed, line_weights(self._line, confidence).tolist(), strict=True):
            yield replace(each, weight=weight)

    def _composed(self, image: ShardImage) -> Iterator[ComposedExpression]:
        weights = self._config.posterior
        streams = self._by_shares(image) if weights is None else self._by_probability(image, weights)
        of_masks, of_several, of_none = streams
        yield from of_masks
        if "group" in self._config.kinds:
            yield from islice(of_several, self._config.max_per_image)
        if "none" in self._config.kinds:
            yield from islice(of_none, self._config.max_per_image)

    def _by_shares(self, image: ShardImage) -> _Streams:
        view = view_of(image, self._language, self._config)
        of_masks = (each for n, mask in enumerate(image.masks) for each in expressions_of(view, n, mask.mask_id))
        return of_masks, group_expressions(view), absent_expressions(view)

    def _by_probability(self, image: ShardImage, weights: PosteriorConfig) -> _Streams:
        view = likelihood_of(image.masks, drawn_by_mask(image), self._language, self._config, weights)
        of_masks = (each for n, mask in enumerate(image.masks) for each in ranked_expressions(view, n, mask.mask_id))
        return of_masks, ranked_groups(view), ranked_absences(view)


def _record(composed: ComposedExpression, image: ShardImage) -> ExpressionRecord:
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


class ComposingStage:
    """Scores a shard, then composes image by image. An error quarantines the image under the filter stage."""

    def __init__(
        self, scorer: Callable[[Shard], Shard], config: ComposingConfig, line: WeightLine | None = None
    ) -> None:
        """Take a scorer with its model loaded, and what `Composer` takes."""
        self._scorer = scorer
        self._composer = Composer(config, line)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard scored, with the composed expressions of each image last."""
        return apply_to_images(self._scorer(shard), STAGE_FILTER, self._composer)
