"""Adds composed expressions to annotated images; also the filter stage that does so after a scorer.

The result depends on masks, candidates and scores, never on `kept`: another keep rule (`refilter`) does not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np

from pseudoris.schemas.composer_settings import ComposingConfig
from pseudoris.schemas.pair_weight import WeightLine, line_weights
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, Shard, ShardImage
from pseudoris.workers.composing import english
from pseudoris.workers.composing.expression_ranking import (
    ComposedExpression,
    ranked_absences,
    ranked_expressions,
    ranked_groups,
)
from pseudoris.workers.composing.language import Language
from pseudoris.workers.composing.likelihood import likelihood_of
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.stages import STAGE_FILTER

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
        weights = line_weights(self._line, np.array([each.confidence for each in composed], np.float64)).tolist()
        weighed = (replace(each, weight=weight) for each, weight in zip(composed, weights, strict=True))
        return replace(image, expressions=(*given, *weighed))

    def _composed(self, image: ShardImage) -> Iterator[ComposedExpression]:
        view = likelihood_of(image, self._language, self._config)
        for number, mask in enumerate(image.masks):
            yield from ranked_expressions(view, number, mask.mask_id)
        if "group" in self._config.kinds:
            yield from islice(ranked_groups(view), self._config.max_per_image)
        if "none" in self._config.kinds:
            yield from islice(ranked_absences(view), self._config.max_per_image)


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
