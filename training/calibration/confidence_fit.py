"""Fits weights of confidence, and the bounds on it, to judged images. Called by `calibrate` (`cli`) and experiments.

Weights are rounded before bounds are chosen: a run that is given them keeps what the figures say. Composed and human
expressions are kept at any bounds, and those of one mask count. More confidence never means a lower `weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.estimate import Sums
from pseudoris.schemas.fitted import (
    CONFIDENCE_COLUMNS,
    ConfidenceConfig,
    Floats,
    PairWeightConfig,
    Rated,
    WeightLine,
    confidence_of,
    features,
    log_odds,
    ranks,
)
from pseudoris.schemas.keep_rule import Flags, Ints
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.human_truth import HumanImageTruth
from pseudoris.training.evaluation.run_images import CANDIDATE_COLUMNS, committed_images
from pseudoris.training.evaluation.truth import CandidateTable, ImageTruth, Truth, judge, match_image

# The ridge has this strength. It keeps the weights of standardised features from growing without bound.
_RIDGE: Final = 1e-3
_STEPS: Final = 40
# Log-odds are clipped to ± this, where a probability is within 1e-13 of 0 or 1, so that `exp` cannot overflow.
_MAX_LOG_ODDS: Final = 30.0
_DIGITS: Final = 3
# Scores that differ by less than this, as a standard deviation, are all alike but for rounding.
_LEAST_SPREAD: Final = 1e-9
# A line is fitted to at least this many right and as many wrong expressions, because fewer show mostly chance.
_LEAST_OF_EACH: Final = 5
# Every run has the features `CLIP` and `VOTE`. `LISTENER` and `EVERYTHING` need `captions.listening`.
CLIP: Final = ("log_uniqueness", "log_distinctiveness", "correctness", "log_count", "num_words")
VOTE: Final = (*CLIP, "vote")
LISTENER: Final = ("listener", "truth", "relative_truth")
EVERYTHING: Final = (*VOTE, *LISTENER, "consensus")
# This feature needs the second opinion of an older run.
CHECKED: Final = ("grounding",)
# These features rise with quality for any model, so they need no labels.
NO_LABELS_VOTE: Final = ("log_uniqueness", "correctness", "vote")
NO_LABELS: Final = (*NO_LABELS_VOTE, "listener", "truth")
# All pairs of these bounds are tried. The widest keep everything: a confidence is above 0, a rank below 1000.
_GRID: Final = tuple(float(value) for value in np.round(np.arange(0.0, 0.985, 0.02), 2))
_RANKS: Final = (1, 2, 3, 4, 5, 6, 8, 1000)
# Without labels it is unknown how many candidates of a mask are right, so they are kept up to this rank.
NO_LABEL_RANK: Final = 3
Columns = Mapping[str, Sequence[Any]]
# A lone mask's caption has this logarithm of a ratio, as if its best rival fitted equally well.
LONE_LOG_RATIO: Final = 0.0
JUDGED_COLUMNS: Final = ("source", "confidence", *CONFIDENCE_COLUMNS)


@dataclass(frozen=True, eq=False)
class AlwaysKept:
    """K expressions of one mask each that are kept at any bounds: a composer's, or a human's.

    `targets` are (K,) int64, the masks' objects, -1 for none; `confidence` (K,) float64 is the composer's, NaN for a
    human's; `pairs` are K mask ids and texts, empty if not known.
    """

    is_right: Flags
    targets: Ints
    confidence: Floats
    pairs: Sequence[tuple[str, str]] = ()


NOTHING_KEPT = AlwaysKept(np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True, eq=False)
class JudgedImage:
    """One image's T candidates, `rated` as the filter stage has them, in groups by mask id.

    `is_right` (T,) says which refer to their mask's object and to nothing else; `targets` (T,) are these objects, -1
    for none. `num_visible` counts objects of the truth with a pixel; `beside` has expressions that are always kept.
    """

    rated: Rated
    is_right: Flags
    targets: Ints
    num_masks: int
    num_visible: int
    beside: AlwaysKept = NOTHING_KEPT

    @cached_property
    def features(self) -> dict[str, Floats]:
        """What weights are multiplied with, (T,) float64 by name; computed once for all that is tried."""
        return features(self.rated, LONE_LOG_RATIO)

    def sums(self, keep: Flags) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage, for `keep` (T,) bool and `beside`."""
        right = keep & self.is_right
        kept = float(keep.sum() + len(self.beside.is_right))
        covered = np.concatenate([self.targets[right], self.beside.targets[self.beside.is_right]])
        return {
            "accuracy": (float(right.sum() + self.beside.is_right.sum()), kept),
            "yield": (kept, self.num_masks),
            "coverage": (float(len(np.unique(covered))), self.num_visible),
        }


def judged_images(location: RunLocation, truth: Truth | None, *, max_images: int | None = None) -> list[JudgedImage]:
    """Return the committed images of a truth, in plan order, with all candidates judged; all of them without.

    The run need not be finished, and at most `max_images` are read. Objects that were not annotated do not count as
    objects. Without a truth there is no object, and nothing is right.
    """
    columns = tuple(dict.fromkeys((*CANDIDATE_COLUMNS, *JUDGED_COLUMNS)))
    found: list[JudgedImage] = []
    for image in chain.from_iterable(committed_images(each, *columns) for each in OpenRun.at(location).shards()):
        known = HumanImageTruth(image.size, [], []) if truth is None else image.known_to(truth)
        if known is not None and not image.is_quarantined:
            told = {name: image.expressions[name].to_pylist() for name in JUDGED_COLUMNS}
            found.append(judge_image(known, image.candidates, told))
        if len(found) == max_images:
            break
    if not any(len(image.is_right) for image in found):
        of = f" that the truth ({truth.title}) knows. Image keys, relative to SOURCE, must be equal" if truth else ""
        raise ConfigError(f"{location.root} holds no committed image with candidates{of}")
    return found


def judge_image(truth: ImageTruth, candidates: CandidateTable, columns: Columns) -> JudgedImage:
    """Return an image judged; `columns` are `JUDGED_COLUMNS` of the same rows, None if undefined."""
    matched = match_image(truth, candidates)
    verdicts = judge(truth, candidates, matched.object_of_mask)
    drawn = np.array([source == SOURCE_MODEL for source in columns["source"]], np.bool_)
    beside = ~drawn & verdicts.is_single & candidates.is_kept
    # The conversion turns None, which a mask without a rival has, into NaN.
    scores = {name: np.array(columns[name], np.float64)[drawn] for name in CONFIDENCE_COLUMNS}
    chosen = np.flatnonzero(drawn).tolist()
    return JudgedImage(
        rated=Rated([candidates.targets[row][0] for row in chosen], [candidates.texts[row] for row in chosen], scores),
        is_right=verdicts.is_right[drawn],
        targets=verdicts.target[drawn],
        num_masks=len(candidates.mask_ids),
        num_visible=int(matched.is_visible.sum()),
        beside=AlwaysKept(
            verdicts.is_right[beside],
            verdicts.target[beside],
            np.array(columns["confidence"], np.float64)[beside],
            [(candidates.targets[row][0], candidates.texts[row]) for row in np.flatnonzero(beside).tolist()],
        ),
    )


def logistic_regression(table: Floats, right: Floats) -> tuple[float, Floats]:
    """Return bias and slopes (F,) of a table (T, F) for `right` (T,) in [0, 1], not all alike, by Newton's method."""
    mean, std = table.mean(axis=0), table.std(axis=0) + 1e-9
    scaled = np.column_stack([np.ones(len(table)), (table - mean) / std])
    penalty = _RIDGE * np.eye(scaled.shape[1])
    penalty[0, 0] = 0.0
    weights, total = np.zeros(scaled.shape[1]), len(scaled)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(scaled @ weights, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
        gradient = scaled.T @ (likely - right) / total + penalty @ weights
        curvature = (scaled.T * (likely * (1 - likely))) @ scaled / total + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    slopes = weights[1:] / std
    return float(weights[0] - slopes @ mean), slopes


def fit_pair_weight(images: Sequence[JudgedImage], config: ConfidenceConfig) -> PairWeightConfig | None:
    """Return the lines for drawn and composed expressions; None without enough verdicts for either.

    `config` says how confidence follows from the scores of what was drawn. A composed expression has its own.
    """
    drawn = _joined(confidence_of(image.features, config) for image in images)
    composed = _joined(image.beside.confidence for image in images)
    lines = (
        fit_line(drawn, _joined(image.is_right for image in images)),
        fit_line(composed, _joined(image.beside.is_right for image in images)),
    )
    return None if lines == (None, None) else PairWeightConfig(drawn=lines[0], composed=lines[1])


def fit_line(confidence: Floats, right: Floats) -> WeightLine | None:
    """Return the likeliest line of confidences (T,), NaN if unknown, and `right` (T,); None with few right or wrong."""
    rows = ~np.isnan(confidence)
    odds, right = log_odds(confidence[rows]), np.asarray(right[rows], np.float64)
    if min(right.sum(), (1 - right).sum()) < _LEAST_OF_EACH:
        return None
    bias, (slope,) = logistic_regression(odds[:, None], right)
    if slope <= 0:
        # A falling line is chance and becomes constant, because less confidence never means more right expressions.
        bias, slope = float(log_odds(np.array([right.mean()]))[0]), 0.0
    return WeightLine(bias=round(bias, _DIGITS), slope=round(float(slope), _DIGITS))


@dataclass(frozen=True)
class Bounds:
    """What is kept: confidences above `min_confidence`, and at most `max_rank` of a mask."""

    min_confidence: float
    max_rank: int

    def keeps(self, image: JudgedImage, config: ConfidenceConfig) -> Flags:
        """Return which of an image's candidates are kept, (T,) bool."""
        confidence, rank = _ranked(image, config)
        return np.asarray((confidence > self.min_confidence) & (rank <= self.max_rank))

    def conditions(self) -> list[str]:
        """Return them as `filtering.keep` takes them."""
        rank = [] if self.max_rank >= _RANKS[-1] else [f"rank <= {self.max_rank}"]
        return [f"confidence > {self.min_confidence:g}", *rank]


@dataclass(frozen=True)
class BoundsFigures:
    """What bounds reach: accuracy, distinct kept expressions per mask, and coverage."""

    bounds: Bounds
    accuracy: float
    distinct: float
    coverage: float

    def as_json(self) -> dict[str, float]:
        """Return the figures, the yield by its name in the tables."""
        found = {"accuracy": self.accuracy, "yield": self.distinct, "coverage": self.coverage}
        return {name: round(value, 4) for name, value in found.items()}


@dataclass(frozen=True)
class Calibration:
    """Weights, chosen bounds, the figures that these reach on their own images, and the number of images.

    `pair_weight` holds the lines from confidence to the column `weight`; None without enough labels.
    """

    weights: ConfidenceConfig
    reached: BoundsFigures
    num_images: int
    pair_weight: PairWeightConfig | None = None


def calibrate(
    images: Sequence[JudgedImage], names: Sequence[str], *, coverage: float, least_yield: float
) -> Calibration:
    """Return weights of the named features, and the most accurate bounds that reach both; errors as of `fit`."""
    weights = fit(images, names)
    chosen = choose(reached(images, weights), coverage=coverage, least_yield=least_yield)
    return Calibration(weights, chosen, len(images), fit_pair_weight(images, weights))


def calibrated_run(
    location: RunLocation, truth: Truth | None, *, coverage: float, least_yield: float, max_images: int | None = None
) -> Calibration:
    """Return weights and bounds for the models of a run, with the listener's and the check's scores if it has them.

    The bounds reach `coverage` and `least_yield` if any do. Without a truth no label is used, about `least_yield`
    expressions per mask are kept, and only the reached yield is known. The first `max_images` images are read.
    """
    images = judged_images(location, truth, max_images=max_images)
    # Features of the listener or of a second opinion are used only if all candidates have their scores.
    is_heard, is_checked = (
        not any(np.isnan(image.rated.scores[name]).any() for image in images) for name in ("truth", "grounding_share")
    )
    checked = CHECKED if is_checked else ()
    if truth is None:
        names = (*(NO_LABELS if is_heard else NO_LABELS_VOTE), *checked)
        return without_labels(images, names, wanted_yield=least_yield)
    names = (*(EVERYTHING if is_heard else VOTE), *checked)
    try:
        return calibrate(images, names, coverage=coverage, least_yield=least_yield)
    except ValueError as error:
        raise ConfigError(f"{location.root} against the truth ({truth.title}): {error}. Use more images.") from error


def fit(images: Sequence[JudgedImage], names: Sequence[str]) -> ConfidenceConfig:
    """Return the weights of features that best separate right candidates from wrong ones.

    Raises:
        ValueError: No candidate is right, or all are: there is nothing to separate.
    """
    table = _feature_table(images, names)
    right = _joined(image.is_right for image in images)
    if len(np.unique(right)) < 2:
        raise ValueError(f"{int(right.sum())} of {len(right)} candidates are right. Fitting needs right and wrong ones")
    bias, slopes = logistic_regression(table, right)
    return _rounded_weights(names, slopes, bias)


def reached(images: Sequence[JudgedImage], config: ConfidenceConfig) -> list[BoundsFigures]:
    """Return what each pair of bounds reaches on `images`."""
    ranked = [_ranked(image, config) for image in images]
    confidence, rank = (_joined(each[part] for each in ranked) for part in (0, 1))
    right = _joined(image.is_right for image in images).astype(np.bool_)
    # Objects are numbered over all images. The number 0 means that there is no object.
    first, numbers, covered = 1, [np.zeros(0, np.int64)], list[int]()
    for image in images:
        numbers.append(np.where(image.targets < 0, 0, image.targets + first))
        covered += (image.beside.targets[image.beside.is_right] + first).tolist()
        first += 1 + max(image.targets.max(initial=-1), image.beside.targets.max(initial=-1))
    objects, least = np.concatenate(numbers), np.full(first, -np.inf)
    least[covered] = np.inf
    num_beside = sum(len(image.beside.is_right) for image in images)
    masks, visible = sum(image.num_masks for image in images), sum(image.num_visible for image in images)
    found = []
    for max_rank in _RANKS:
        inside = rank <= max_rank
        # A bound covers an object if it is below the confidence of the best right expression of the object.
        best = least.copy()
        np.maximum.at(best, objects[inside & right], confidence[inside & right])
        for bound in _GRID:
            kept = inside & (confidence > bound)
            num_kept, num_right = int(kept.sum()) + num_beside, int((kept & right).sum()) + len(covered)
            accuracy = num_right / num_kept if num_kept else 0.0
            coverage = float((best > bound).sum()) / visible if visible else 0.0
            found.append(BoundsFigures(Bounds(bound, max_rank), accuracy, num_kept / max(masks, 1), coverage))
    return found


def choose(options: Sequence[BoundsFigures], *, coverage: float, least_yield: float) -> BoundsFigures:
    """Return the most accurate bounds that reach both; if none do, those with the highest coverage, then accuracy."""
    wide = [each for each in options if each.coverage >= coverage and each.distinct >= least_yield]
    if wide:
        return max(wide, key=lambda each: each.accuracy)
    return max(options, key=lambda each: (each.coverage, each.accuracy))


def without_labels(images: Sequence[JudgedImage], names: Sequence[str], *, wanted_yield: float) -> Calibration:
    """Return weights and bounds that look at no verdict: every feature has equal weight, in standard deviations.

    More of each of the features `names` is better. The bound keeps closest to `wanted_yield` expressions per mask,
    those that are always kept included, at most `NO_LABEL_RANK` for each. Its figures come from the verdicts.
    """
    table = _feature_table(images, names)
    spread = table.std(axis=0)
    # A score that is the same for all says nothing, such as the distinctiveness of masks that are alone in their image.
    slopes = np.divide(1, spread, out=np.zeros_like(spread), where=spread > _LEAST_SPREAD)
    weights = _rounded_weights(names, slopes, float(-(slopes @ table.mean(axis=0))))
    options = [each for each in reached(images, weights) if each.bounds.max_rank == NO_LABEL_RANK]
    return Calibration(weights, min(options, key=lambda each: abs(each.distinct - wanted_yield)), len(images))


def _joined(parts: Iterable[np.ndarray]) -> Floats:
    return np.concatenate([np.zeros(0), *parts])


def _feature_table(images: Sequence[JudgedImage], names: Sequence[str]) -> Floats:
    parts = [np.stack([image.features[name] for name in names], axis=1) for image in images]
    return np.concatenate([np.zeros((0, len(names))), *parts])


def _rounded_weights(names: Sequence[str], slopes: Floats, bias: float) -> ConfidenceConfig:
    rounded = {name: round(float(slope), _DIGITS) for name, slope in zip(names, slopes, strict=True)}
    return ConfidenceConfig(bias=round(bias, _DIGITS), lone_log_ratio=LONE_LOG_RATIO, **rounded)


def _ranked(image: JudgedImage, config: ConfidenceConfig) -> tuple[Floats, Floats]:
    confidence = confidence_of(image.features, config)
    return confidence, ranks(confidence, image.rated.groups)
