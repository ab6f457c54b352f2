"""Logistic weights by Newton's method, and bounds on confidence and rank, both chosen on development scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.listening.collecting import Composed, SceneRows
from schemas.confidence import confidences, features, ranks
from schemas.keeping import Flags, Floats
from schemas.listening import ConfidenceConfig
from training.evaluation.bootstrap import Sums

# Against weights without bound; in units of standardised features.
_RIDGE: Final = 1e-3
_STEPS: Final = 40
_DIGITS: Final = 3
_GRID: Final = tuple(float(value) for value in np.round(np.arange(0.3, 0.975, 0.02), 2))
# 30 bounds nothing: fewer candidates of a mask are right.
_RANKS: Final = (1, 2, 3, 4, 5, 6, 8, 30)

CLIP: Final = ("log_uniqueness", "log_distinctiveness", "correctness", "log_count", "num_words")
LISTENER: Final = ("listener", "truth", "relative_truth")
# What is weighed, from what a run has in any case to everything.
FEATURE_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "clip": CLIP,
    "clip+vote": (*CLIP, "vote"),
    "clip+listener": (*CLIP, *LISTENER),
    "all": (*CLIP, "vote", *LISTENER, "consensus"),
}


@dataclass(frozen=True)
class Bounds:
    """What is kept: a confidence above, and at most so many of a mask; beside it what a composer says, if named."""

    min_confidence: float
    max_rank: int
    composer: str | None = None

    def keeps(self, scene: SceneRows, config: ConfidenceConfig) -> Flags:
        """Return (T,) bool."""
        confidence = confidences(scene.rated, config)
        rank = ranks(confidence, scene.rated.groups)
        return np.asarray((confidence > self.min_confidence) & (rank <= self.max_rank))


@dataclass(frozen=True)
class Reached:
    """What bounds reach: accuracy, distinct kept expressions a mask, and coverage."""

    bounds: Bounds
    accuracy: float
    distinct: float
    coverage: float


def fit(scenes: Sequence[SceneRows], names: Sequence[str]) -> ConfidenceConfig:
    """Return the weights of features that best tell the scenes' right candidates from the others."""
    found = [features(scene.rated) for scene in scenes if len(scene.is_right)]
    table = np.stack([np.concatenate([each[name] for each in found]) for name in names], axis=1)
    right = np.concatenate([scene.is_right for scene in scenes]).astype(np.float64)
    mean, std = table.mean(axis=0), table.std(axis=0) + 1e-9
    weights = _newton(np.column_stack([np.ones(len(table)), (table - mean) / std]), right)
    slopes = weights[1:] / std
    bias = weights[0] - float(slopes @ mean)
    rounded = {name: round(float(slope), _DIGITS) for name, slope in zip(names, slopes, strict=True)}
    return ConfidenceConfig(bias=round(float(bias), _DIGITS), **rounded)


def reached(scenes: Sequence[SceneRows], config: ConfidenceConfig, composer: str | None = None) -> list[Reached]:
    """Return what each pair of bounds reaches on `scenes`, with what a composer says beside it, if one is named."""
    judged = [_Judged.of(scene, config, composer) for scene in scenes if len(scene.is_right)]
    masks, visible = sum(scene.num_masks for scene in scenes), sum(scene.num_visible for scene in scenes)
    found = []
    for min_confidence in _GRID:
        for max_rank in _RANKS:
            kept, right, covered = np.sum([each.counts(min_confidence, max_rank) for each in judged], axis=0)
            accuracy = float(right / kept) if kept else 0.0
            bounds = Bounds(min_confidence, max_rank, composer)
            found.append(Reached(bounds, accuracy, float(kept / masks), covered / visible))
    return found


def choose(options: Sequence[Reached], *, coverage: float, least_yield: float) -> Bounds:
    """Return the bounds of the highest accuracy whose coverage and yield are at least so large.

    Where none reach that, those of the highest coverage.
    """
    wide = [each for each in options if each.coverage >= coverage and each.distinct >= least_yield]
    if not wide:
        return max(options, key=lambda each: each.coverage).bounds
    return max(wide, key=lambda each: each.accuracy).bounds


def sums_of(scene: SceneRows, keep: Flags, composer: str | None = None) -> Sums:
    """Return numerator and denominator of accuracy, yield and coverage of what is kept of a scene, and composed."""
    right = keep & scene.is_right
    composed = _said(scene, composer)
    kept, targets = float(keep.sum() + len(composed.is_right)), composed.targets[composed.is_right]
    return {
        "accuracy": (float(right.sum() + composed.is_right.sum()), kept),
        "yield": (kept, scene.num_masks),
        "coverage": (float(len(np.unique(np.concatenate([scene.targets[right], targets])))), scene.num_visible),
    }


def _said(scene: SceneRows, composer: str | None) -> Composed:
    return Composed(np.zeros(0, bool), np.zeros(0, np.int64)) if composer is None else scene.composed[composer]


@dataclass(frozen=True)
class _Judged:
    """A scene under some weights; what `Bounds` reads, computed once for all of them."""

    confidence: Floats
    rank: Floats
    is_right: Flags
    targets: np.ndarray
    composed: Composed

    @classmethod
    def of(cls, scene: SceneRows, config: ConfidenceConfig, composer: str | None) -> _Judged:
        confidence = confidences(scene.rated, config)
        rank = ranks(confidence, scene.rated.groups)
        return cls(confidence, rank, scene.is_right, scene.targets, _said(scene, composer))

    def counts(self, min_confidence: float, max_rank: int) -> tuple[int, int, int]:
        keep = (self.confidence > min_confidence) & (self.rank <= max_rank)
        right = keep & self.is_right
        # Every right candidate has an object for its target.
        own, others = self.targets[right], self.composed.targets[self.composed.is_right]
        covered = int(np.count_nonzero(np.bincount(np.concatenate([own, others]))))
        num_kept = int(np.count_nonzero(keep)) + len(self.composed.is_right)
        return num_kept, int(np.count_nonzero(right)) + len(others), covered


def _newton(table: Floats, right: Floats) -> Floats:
    penalty = _RIDGE * np.eye(table.shape[1])
    penalty[0, 0] = 0.0
    weights = np.zeros(table.shape[1])
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-(table @ weights)))
        gradient = table.T @ (likely - right) / len(right) + penalty @ weights
        curvature = (table.T * (likely * (1 - likely))) @ table / len(right) + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights
