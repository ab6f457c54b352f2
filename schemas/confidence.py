"""How likely a candidate is right, as a function of the columns beside it; the filter stage and `verify` share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from schemas.keeping import Floats
from schemas.listening import ConfidenceConfig

# What `features` reads, by the names of the table's columns.
CONFIDENCE_COLUMNS: Final = ("listener", "truth", "uniqueness", "distinctiveness", "correctness", "count")
# Beyond these a score says no more: 0.999 for the listener, a ratio of e for CLIP.
_MAX_LOG_ODDS: Final = 7.0
_MAX_LOG_RATIO: Final = 1.0
_TINY: Final = 1e-12


def features(scores: Mapping[str, Floats], groups: Sequence[str]) -> dict[str, Floats]:
    """Return what each weight of `ConfidenceConfig` is multiplied with, (T,) float64 by the weight's name.

    NaN where a candidate was not read by the listener. A ratio to other masks that is undefined, because there are
    none, counts as one that is clearly in the candidate's favour.

    Args:
        scores: `CONFIDENCE_COLUMNS`, (T,) float64 each, NaN where undefined.
        groups: The T candidates' masks.
    """
    truth = scores["truth"]
    odds = np.clip(scores["listener"], _TINY, 1.0 - _TINY)
    return {
        "listener": np.clip(np.log(odds) - np.log1p(-odds), -_MAX_LOG_ODDS, _MAX_LOG_ODDS),
        "truth": truth,
        "relative_truth": truth - _best_of_group(truth, groups),
        "log_uniqueness": _log_ratio(scores["uniqueness"]),
        "log_distinctiveness": _log_ratio(scores["distinctiveness"]),
        "correctness": scores["correctness"],
        "log_count": np.log(np.maximum(scores["count"], 1.0)),
    }


def confidences(scores: Mapping[str, Floats], groups: Sequence[str], config: ConfidenceConfig) -> Floats:
    """Return the probability that each of T candidates is right, (T,) float64 in [0, 1]; NaN where it is not known.

    Args, as `features`.
    """
    found = features(scores, groups)
    total = np.full(len(groups), config.bias, np.float64)
    # A fixed order: a sum of floats depends on it.
    for name in sorted(found):
        if weight := getattr(config, name):
            total += weight * found[name]
    # Where nobody listened there is no confidence, whatever the weights read.
    total[np.isnan(scores["listener"]) | np.isnan(scores["truth"])] = np.nan
    # Of a large |total| the other form of the function would overflow.
    return np.asarray(np.where(total >= 0, 1.0, np.exp(np.minimum(total, 0.0))) / (1.0 + np.exp(-np.abs(total))))


def ranks(confidence: Floats, groups: Sequence[str]) -> Floats:
    """Return each candidate's place among its mask's by confidence, (T,) float64 from 1; NaN where it has none.

    Of equal ones the first comes first.
    """
    found = np.full(len(groups), np.nan)
    counts: dict[str, int] = {}
    for row in np.argsort(-confidence, kind="stable").tolist():
        if not np.isnan(confidence[row]):
            counts[groups[row]] = counts.get(groups[row], 0) + 1
            found[row] = counts[groups[row]]
    return found


def _best_of_group(values: Floats, groups: Sequence[str]) -> Floats:
    _, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    best = np.full(int(group.max(initial=-1)) + 1, -np.inf)
    np.fmax.at(best, group, values)
    return best[group]


def _log_ratio(ratio: Floats) -> Floats:
    logs = np.log(np.where(np.isnan(ratio), np.e**_MAX_LOG_RATIO, np.maximum(ratio, _TINY)))
    return np.asarray(np.clip(logs, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
