"""The filter stage of a run that composes: any scorer, and the composer behind it."""

from __future__ import annotations

from collections.abc import Callable

from schemas.composing import ComposingConfig
from schemas.shard import Shard
from workers.boundary import apply_to_images
from workers.composing.composer import Composer
from workers.protocols import STAGE_FILTER


class ComposingStage:
    """Scores, then composes, image by image; an image on which it raises is quarantined as the filter stage's."""

    def __init__(self, scorer: Callable[[Shard], Shard], config: ComposingConfig) -> None:
        """Take a scorer with its model loaded."""
        self._scorer = scorer
        self._composer = Composer(config)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard scored, with the composed expressions of each image last."""
        return apply_to_images(self._scorer(shard), STAGE_FILTER, self._composer)
