"""Logistic weights by Newton's method, and bounds on confidence and rank, from images that a truth has judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.confidence import ranks, weighed
from schemas.keeping import Flags, Floats
from schemas.listening import ConfidenceConfig
from training.calibration.judged import JudgedImage

# What a run has in any case, and what needs `captions.listening`.
CLIP: Final = ("log_uniqueness", "log_distinctiveness", "correctness", "log_count", "num_words")
VOTE: Final = (*CLIP, "vote")
LISTENER: Final = ("listener", "truth", "relative_truth")
EVERYTHING: Final = (*VOTE, *LISTENER, "consensus")
# Of these more is better, whatever the models are: nobody need say so.
NO_LABELS_VOTE: Final = ("log_uniqueness", "correctness", "vote")
NO_LABELS: Final = (*NO_LABELS_VOTE, "listener", "truth")

# Against weights without bound; in units of standardised features.
_RIDGE: Final = 1e-3
_STEPS: Final = 40
# Beyond it a probability is 0 or 1 to float64, and its exponential may overflow.
_MAX_LOG_ODDS: Final = 30.0
_DIGITS: Final = 3
# Above 0 lies every confidence, and beyond the last rank a mask has no candidate: the widest bounds keep everything.
_GRID: Final = tuple(float(value) for value in np.round(np.arange(0.0, 0.985, 0.02), 2))
_RANKS: Final = (1, 2, 3, 4, 5, 6, 8, 1000)
# Where nothing says how many of a mask are right.
NO_LABEL_RANK: Final = 3


_FIELDS: Final = {"accuracy": "accuracy", "yield": "distinct", "coverage": "coverage"}


@dataclass(frozen=True)
class Bounds:
    """What is kept: a confidence above, and at most so many of a mask."""

    min_confidence: float
    max_rank: int

    def keeps(self, image: JudgedImage, config: ConfidenceConfig, allowed: Flags | None = None) -> Flags:
        """Return (T,) bool; what is not `allowed`, (T,) bool, is not there."""
        confidence, rank = _ranked(image, config, allowed)
        return np.asarray((confidence > self.min_confidence) & (rank <= self.max_rank))

    def conditions(self) -> list[str]:
        """Return them as `filtering.keep` takes them."""
        rank = [] if self.max_rank >= _RANKS[-1] else [f"rank <= {self.max_rank}"]
        return [f"confidence > {self.min_confidence:g}", *rank]


@dataclass(frozen=True)
class Reached:
    """What bounds reach: accuracy, distinct kept expressions a mask, and coverage."""

    bounds: Bounds
    accuracy: float
    distinct: float
    coverage: float

    def as_json(self) -> dict[str, float]:
        """Return the figures, the yield by its name in the tables."""
        return {name: round(getattr(self, field), 4) for name, field in _FIELDS.items()}


@dataclass(frozen=True)
class Calibration:
    """Weights, the bounds chosen, what they reach on the images that they come from, and how many these are."""

    weights: ConfidenceConfig
    reached: Reached
    num_images: int


def calibrate(
    images: Sequence[JudgedImage], names: Sequence[str], *, coverage: float, least_yield: float
) -> Calibration:
    """Return weights of the named features, and the most accurate bounds that reach a coverage and a yield.

    Raises:
        ValueError: No candidate is right, or all are: there is nothing to tell apart.
    """
    weights = fit(images, names)
    chosen = choose(reached(images, weights), coverage=coverage, least_yield=least_yield)
    return Calibration(weights, chosen, len(images))


def fit(images: Sequence[JudgedImage], names: Sequence[str]) -> ConfidenceConfig:
    """Return the weights of features that best tell the right candidates from the others.

    Raises:
        ValueError: No candidate is right, or all are: there is nothing to tell apart.
    """
    table = _table(images, names)
    right = np.concatenate([np.zeros(0), *(image.is_right for image in images)])
    if len(np.unique(right)) < 2:
        raise ValueError(f"of {len(right)} candidates {int(right.sum())} are right: weights need both kinds")
    bias, slopes = logistic_regression(table, right)
    return _rounded(names, slopes, bias)


def reached(
    images: Sequence[JudgedImage], config: ConfidenceConfig, allowed: Sequence[Flags] | None = None
) -> list[Reached]:
    """Return what each pair of bounds reaches on `images`; `allowed` as of `Bounds.keeps`, of each image."""
    allow = [None] * len(images) if allowed is None else allowed
    ranked = [_ranked(image, config, flags) for image, flags in zip(images, allow, strict=True)]
    confidence, rank = (np.concatenate([np.zeros(0), *(each[part] for each in ranked)]) for part in (0, 1))
    right = np.concatenate([np.zeros(0, np.bool_), *(image.is_right for image in images)])
    objects, is_beside, said, said_right = _objects(images)
    masks, visible = sum(image.num_masks for image in images), sum(image.num_visible for image in images)
    found = []
    for max_rank in _RANKS:
        inside = rank <= max_rank
        # Of each object its most confident right expression decides from which bound on it is covered.
        best = np.where(is_beside, np.inf, -np.inf)
        np.maximum.at(best, objects[inside & right], confidence[inside & right])
        for bound in _GRID:
            kept = inside & (confidence > bound)
            num_kept, num_right = int(kept.sum()) + said, int((kept & right).sum()) + said_right
            accuracy = num_right / num_kept if num_kept else 0.0
            coverage = float((best > bound).sum()) / visible if visible else 0.0
            found.append(Reached(Bounds(bound, max_rank), accuracy, num_kept / max(masks, 1), coverage))
    return found


def choose(options: Sequence[Reached], *, coverage: float, least_yield: float) -> Reached:
    """Return what has the highest accuracy among bounds whose coverage and yield are at least so large.

    Where none reach that, what has the highest coverage, of equals the highest accuracy.
    """
    wide = [each for each in options if each.coverage >= coverage and each.distinct >= least_yield]
    if not wide:
        return max(options, key=lambda each: (each.coverage, each.accuracy))
    return max(wide, key=lambda each: each.accuracy)


def without_labels(images: Sequence[JudgedImage], names: Sequence[str], *, wanted_yield: float) -> Calibration:
    """Return weights and bounds that look at no verdict: every feature counts alike, in standard deviations.

    The bound is the one that keeps closest to so many expressions a mask, at most `NO_LABEL_RANK` of what was drawn for
    it. What is reached is told from the verdicts all the same.

    Args:
        images: Whose candidates stand for a run's.
        names: Features of which more is better.
        wanted_yield: Of all that is kept, what is said beside included, as in `choose`: a run has so many then.
    """
    table = _table(images, names)
    slopes = 1 / (table.std(axis=0) + 1e-9)
    weights = _rounded(names, slopes, float(-(slopes @ table.mean(axis=0))))
    options = [each for each in reached(images, weights) if each.bounds.max_rank == NO_LABEL_RANK]
    return Calibration(weights, min(options, key=lambda each: abs(each.distinct - wanted_yield)), len(images))


def _table(images: Sequence[JudgedImage], names: Sequence[str]) -> Floats:
    """The features of all candidates, (T, names) float64."""
    parts = [np.stack([image.features[name] for name in names], axis=1) for image in images]
    return np.concatenate([np.zeros((0, len(names))), *parts])


def _rounded(names: Sequence[str], slopes: Floats, bias: float) -> ConfidenceConfig:
    rounded = {name: round(float(slope), _DIGITS) for name, slope in zip(names, slopes, strict=True)}
    return ConfidenceConfig(bias=round(bias, _DIGITS), **rounded)


def _ranked(image: JudgedImage, config: ConfidenceConfig, allowed: Flags | None) -> tuple[Floats, Floats]:
    """Confidence and rank of each candidate, (T,) float64; NaN of what is not allowed, which no bound keeps."""
    confidence = weighed(image.features, config)
    if allowed is not None:
        confidence = np.where(allowed, confidence, np.nan)
    return confidence, ranks(confidence, image.rated.groups)


def _objects(images: Sequence[JudgedImage]) -> tuple[np.ndarray, Flags, int, int]:
    """Number the objects of all images.

    Returns the object of each candidate, (T,) int64, 0 where it has none; of each object, whether something right is
    said of it in any case; and how much is said in any case, and how much of it is right.
    """
    first, numbers = 1, [np.zeros(0, np.int64)]
    covered: list[int] = []
    for image in images:
        numbers.append(np.where(image.targets < 0, 0, image.targets + first))
        covered += (image.beside.targets[image.beside.is_right] + first).tolist()
        first += 1 + max(image.targets.max(initial=-1), image.beside.targets.max(initial=-1))
    is_covered = np.zeros(first, np.bool_)
    is_covered[covered] = True
    said = sum(len(image.beside.is_right) for image in images)
    return np.concatenate(numbers), is_covered, said, len(covered)


def logistic_regression(table: Floats, right: Floats) -> tuple[float, Floats]:
    """Return bias and slopes, (F,) float64, of F features; a slight ridge on the slopes in standard deviations.

    Args:
        table: (T, F) float64.
        right: (T,) float64, 0 and 1, some of each.
    """
    mean, std = table.mean(axis=0), table.std(axis=0) + 1e-9
    weights = _newton(np.column_stack([np.ones(len(table)), (table - mean) / std]), right)
    slopes = weights[1:] / std
    return float(weights[0] - slopes @ mean), slopes


def _newton(table: Floats, right: Floats) -> Floats:
    penalty = _RIDGE * np.eye(table.shape[1])
    penalty[0, 0] = 0.0
    weights = np.zeros(table.shape[1])
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(table @ weights, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
        gradient = table.T @ (likely - right) / len(right) + penalty @ weights
        curvature = (table.T * (likely * (1 - likely))) @ table / len(right) + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights
