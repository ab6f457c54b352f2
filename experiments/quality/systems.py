"""The systems of the ablation, one a row: how candidates are drawn, and which of them are kept.

What a system keeps is marked as kept and counted like any run's kept expressions, so that all systems are judged alike.
Rules see the scores that the filter stage wrote, never the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from experiments.quality.annotated_scenes import DISTINCTIVE, SHIPPED, Setting
from experiments.quality.parts import draw_generator
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, ShardImage

Flags = npt.NDArray[np.bool_]
Column = Literal["uniqueness", "correctness", "distinctiveness"]
SAMPLING: Final = ("top_k", "top_p")


@dataclass(frozen=True)
class Everything:
    """Says every distinct candidate."""

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        return np.ones(len(image.expressions), dtype=np.bool_)


@dataclass(frozen=True)
class Above:
    """Says what scores strictly above a threshold; where a mask is alone and has no such score, all of it."""

    column: Column
    threshold: float

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        return ~(scores(image, self.column) <= self.threshold)


@dataclass(frozen=True)
class AnyOf:
    """Says so many of a mask's distinct candidates, drawn at random: no filter at the yield of one."""

    count: int
    seed: int = 0

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        flags = np.zeros(len(image.expressions), dtype=np.bool_)
        rng = draw_generator(self.seed, int(hashlib.sha256(image.image_id.encode()).hexdigest()[:8], 16))
        targets = np.array([each.target_mask_ids[0] for each in image.expressions])
        for mask in image.masks:
            rows = np.flatnonzero(targets == mask.mask_id)
            flags[rng.permutation(rows)[: self.count]] = True
        return flags


Rule = Callable[[ShardImage], Flags]


@dataclass(frozen=True)
class Draws:
    """Which of the draws there are: a candidate that none of them gave does not exist.

    Attributes:
        decoders: `beam`, `top_k`, `top_p`; None for all.
        crops: Crop kinds; None for all.
        samplers: (top-k, top-p) of each sampler; None for all. Beams have neither and are not asked.
    """

    decoders: tuple[str, ...] | None = None
    crops: tuple[str, ...] | None = None
    samplers: tuple[tuple[int | None, float | None], ...] | None = None

    def holds(self, sample: CaptionSample) -> bool:
        """Return whether a draw is one of them."""
        if self.decoders is not None and sample.decoder not in self.decoders:
            return False
        if self.crops is not None and sample.crop not in self.crops:
            return False
        return self.samplers is None or sample.decoder == "beam" or (sample.top_k, sample.top_p) in self.samplers

    def of(self, image: ShardImage) -> ShardImage:
        """Return the image with these draws alone; the scores of a text do not depend on who drew it."""
        if self == ALL_DRAWS:
            return image
        left = (_with_samples(each, [s for s in each.samples if self.holds(s)]) for each in image.expressions)
        return replace(image, expressions=tuple(each for each in left if each.samples))


ALL_DRAWS: Final = Draws()


@dataclass(frozen=True)
class System:
    """One row of a table.

    Attributes:
        name: In results.
        title: For a person.
        setting: Who draws the candidates.
        rule: Which of them are said.
        bound: Which lower bound of a cosine the scores have, `annotate.PAPER` or `annotate.SHIPPED`.
        draws: Which draws there are.
    """

    name: str
    title: str
    rule: Rule = Everything()
    setting: Setting = DISTINCTIVE
    bound: str = SHIPPED
    draws: Draws = ALL_DRAWS

    def said(self, image: ShardImage) -> ShardImage:
        """Return an annotated image of `setting` and `bound` with what the system says marked as kept."""
        drawn = self.draws.of(image)
        marked = zip(drawn.expressions, self.rule(drawn).tolist(), strict=True)
        return replace(drawn, expressions=tuple(_marked(each, flag) for each, flag in marked))

    def on(self, setting: Setting) -> System:
        """Return the same of another setting's candidates."""
        return replace(self, setting=setting)


def scores(image: ShardImage, column: Column) -> npt.NDArray[np.float64]:
    """Return a score of an image's candidates, (R,) float64, NaN where a mask is alone and has none."""
    values = [getattr(each, column) for each in image.expressions]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _with_samples(expression: ExpressionRecord, samples: Sequence[CaptionSample]) -> ExpressionRecord:
    return expression if len(samples) == len(expression.samples) else replace(expression, samples=tuple(samples))


def _marked(expression: ExpressionRecord, is_kept: bool) -> ExpressionRecord:
    return expression if expression.kept == is_kept else replace(expression, kept=is_kept)
