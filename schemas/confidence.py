"""The columns `confidence` and `weight`: how likely a candidate is right. The filter stage and `verify` share them.

`confidence` ranks well but may be too sure of itself, or not sure enough. `weight` corrects that by a line in its
log-odds, fitted to labels; the composer and `refilter` use it too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pseudoris.schemas.fitted import ConfidenceConfig, WeightLine

Floats = npt.NDArray[np.float64]

# Of 0 and 1 the log-odds are infinite.
_TINY: Final = 1e-12


def log_odds(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), (T,) float64, finite for p in [0, 1]; NaN for NaN."""
    inside = np.clip(probability, _TINY, 1.0 - _TINY)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def logistic(odds: Floats) -> Floats:
    """Return the probability of log-odds, (T,) float64 in [0, 1]; NaN for NaN."""
    # The form that does not overflow for a large |odds|.
    return np.asarray(np.where(odds >= 0, 1.0, np.exp(np.minimum(odds, 0.0))) / (1.0 + np.exp(-np.abs(odds))))


# Rounded, so that an exponential that differs in its last bits gives the same weight.
WEIGHT_DIGITS: Final = 6


def line_weights(line: WeightLine | None, confidence: Floats) -> Floats:
    """Return the weight of each of T expressions, (T,) float64 in [0, 1]; 1 without a line or a confidence."""
    if line is None:
        return np.ones(len(confidence))
    found = logistic(line.bias + line.slope * log_odds(confidence))
    return np.asarray(np.where(np.isnan(found), 1.0, np.round(found, WEIGHT_DIGITS)))


# The table's columns that `features` reads.
CONFIDENCE_COLUMNS: Final = (
    *("caption_score", "listener", "truth"),
    *("uniqueness", "distinctiveness", "correctness", "count"),
)
# Scores are cut here, because beyond it they tell no more: 0.999 for the listener, a ratio of e for CLIP, a word in one
# of 400 candidates.
_MAX_LOG_ODDS: Final = 7.0
_MAX_LOG_RATIO: Final = 1.0
_MIN_LOG_SHARE: Final = -6.0


@dataclass(frozen=True, slots=True)
class Rated:
    """The candidates of one image, or of several.

    Attributes:
        groups: The T candidates' masks.
        texts: T.
        scores: `CONFIDENCE_COLUMNS`, (T,) float64 each, NaN where undefined.
    """

    groups: Sequence[str]
    texts: Sequence[str]
    scores: Mapping[str, Floats]


def features(rated: Rated, lone_log_ratio: float) -> dict[str, Floats]:
    """Return the feature that each weight of `ConfidenceConfig` multiplies, (T,) float64 by the weight's name.

    NaN if a score that the feature reads is missing because there is no listener. If there are no other masks, a ratio
    to them is undefined; `lone_log_ratio` stands for its logarithm.
    """
    scores = rated.scores
    shares = _word_shares(rated)
    return {
        "listener": np.clip(log_odds(scores["listener"]), -_MAX_LOG_ODDS, _MAX_LOG_ODDS),
        "truth": scores["truth"],
        "relative_truth": shares["relative_truth"],
        "consensus": shares["consensus"],
        "vote": shares["vote"],
        "log_uniqueness": _log_ratio(scores["uniqueness"], lone_log_ratio),
        "log_distinctiveness": _log_ratio(scores["distinctiveness"], lone_log_ratio),
        "correctness": scores["correctness"],
        "log_count": np.log(np.maximum(scores["count"], 1.0)),
        "num_words": np.array([len(set(text.split())) for text in rated.texts], np.float64),
    }


def confidences(rated: Rated, config: ConfidenceConfig) -> Floats:
    """Return the probability that each of T candidates is right, (T,) float64 in [0, 1]; NaN if unknown."""
    return confidence_of(features(rated, config.lone_log_ratio), config)


def confidence_of(found: Mapping[str, Floats], config: ConfidenceConfig) -> Floats:
    """Return the same probability from the candidates' `features`, at least one feature."""
    total = np.full(len(next(iter(found.values()))), config.bias, np.float64)
    # In a fixed order, because the order changes a sum of floats.
    for name in sorted(found):
        if weight := getattr(config, name):
            total += weight * found[name]
    return logistic(total)


def ranks(confidence: Floats, groups: Sequence[str]) -> Floats:
    """Return each candidate's rank by confidence among those of its mask, (T,) float64 from 1; NaN without one.

    Equal candidates keep their order.
    """
    found = np.full(len(groups), np.nan)
    counts: dict[str, int] = {}
    for row in np.argsort(-confidence, kind="stable").tolist():
        if not np.isnan(confidence[row]):
            counts[groups[row]] = counts.get(groups[row], 0) + 1
            found[row] = counts[groups[row]]
    return found


def _word_shares(rated: Rated) -> dict[str, Floats]:
    """Return the two features that depend on the other candidates of the same mask.

    Both are the log of a share, for the word of the candidate with the smallest share: the share of the mask's draws
    that have the word (`vote`), and the share of its candidates' probability that has it (`consensus`). A word that few
    of a mask's captions have is wrong more often than one that all of them have.
    """
    found = {name: np.full(len(rated.groups), np.nan) for name in ("vote", "consensus", "relative_truth")}
    for rows in _rows_of_groups(rated.groups):
        words = [frozenset(rated.texts[row].split()) for row in rows]
        truth, score = rated.scores["truth"][rows], rated.scores["caption_score"][rows]
        found["vote"][rows] = _least_shares(words, rated.scores["count"][rows])
        found["relative_truth"][rows] = truth - truth.max()
        found["consensus"][rows] = _least_shares(words, np.exp(score - score.max()))
    return found


def _least_shares(words: Sequence[frozenset[str]], weights: Floats) -> Floats:
    totals: Counter[str] = Counter()
    for said, weight in zip(words, weights.tolist(), strict=True):
        for word in sorted(said):
            totals[word] += weight
    least = np.array([min((totals[word] for word in said), default=0.0) for said in words], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.log(least / weights.sum()), _MIN_LOG_SHARE, 0.0))


def _rows_of_groups(groups: Sequence[str]) -> Iterator[list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    yield from rows.values()


def _log_ratio(ratio: Floats, lone_log_ratio: float) -> Floats:
    logs = np.clip(np.log(np.maximum(ratio, _TINY)), -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return np.asarray(np.where(np.isnan(ratio), lone_log_ratio, logs))
