"""Weights of confidence from a few verdicts of an audit, around the weights that need no label.

A hundred verdicts are too few to fit weights from nothing. They can say how steep the label-free sum is, and move its
parts a little: each weight is the label-free one times a common factor, times 1 + δ, with δ small unless many verdicts
say otherwise. Verdicts are weighted by the design of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pseudoris.schemas.caption_settings import ConfidenceConfig
from pseudoris.schemas.confidence import confidence_of
from pseudoris.schemas.keep_rule import Floats
from pseudoris.schemas.pair_weight import PairWeightConfig, WeightLine
from pseudoris.training.calibration.confidence_fit import (
    NO_LABELS,
    NO_LABELS_VOTE,
    Calibration,
    at_yield,
    feature_table,
    has_listened,
    rounded_weights,
)
from pseudoris.training.calibration.labelled_images import JudgedImage
from pseudoris.training.calibration.pair_weight_fit import as_config, fit_line

# Standard deviation of δ before any verdict is seen. Measured (experiments/audits/moved_weights): at 0.3, the worst of
# 60 audits of 100 verdicts lost 0.012 of accuracy; at 0.15, 0.003, and as much on scenes that it was not chosen on.
SPREAD: Final = 0.15
# Below it, the sum says nothing, and a ratio of weights has no meaning.
_LEAST_FACTOR: Final = 0.05
_STEPS: Final = 40
_MAX_LOG_ODDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class AuditedVerdict:
    """What an audit says of a candidate.

    Attributes:
        is_right: Share of its raters that call it right, in [0, 1].
        weight: How many candidates it stands for.
    """

    is_right: float
    weight: float


def around_label_free(
    images: Sequence[JudgedImage], verdicts: Mapping[tuple[str, str], AuditedVerdict], *, wanted_yield: float
) -> tuple[Calibration, int]:
    """Return weights and bounds, and the number of verdicts that were used.

    Args:
        images: The run's images.
        verdicts: By mask id and text; those that no image has as a candidate are left out.
        wanted_yield: Kept expressions a mask, as in `without_labels`.

    Raises:
        ValueError: As `audited_weights`.
    """
    config, num_used = audited_weights(images, verdicts)
    found = at_yield(images, config, wanted_yield)
    return replace(found, pair_weight=audited_pair_weight(images, config, verdicts)), num_used


def audited_pair_weight(
    images: Sequence[JudgedImage], config: ConfidenceConfig, verdicts: Mapping[tuple[str, str], AuditedVerdict]
) -> PairWeightConfig | None:
    """Return the lines from confidence to `weight`, by the verdicts; see `fit_pair_weight`."""
    drawn = {
        pair: value
        for image in images
        for pair, value in zip(_pairs(image), confidence_of(image.features, config).tolist(), strict=True)
    }
    composed = {
        pair: value
        for image in images
        for pair, value in zip(image.beside.pairs, image.beside.confidence.tolist(), strict=True)
    }

    def line(known: Mapping[tuple[str, str], float]) -> WeightLine | None:
        found = [(known[pair], each.is_right, each.weight) for pair, each in verdicts.items() if pair in known]
        confidence, right, weights = np.array(found, np.float64).reshape(-1, 3).T
        return fit_line(confidence, right, weights)

    return as_config(line(drawn), line(composed))


def audited_weights(
    images: Sequence[JudgedImage], verdicts: Mapping[tuple[str, str], AuditedVerdict]
) -> tuple[ConfidenceConfig, int]:
    """Return weights around the label-free ones, and the number of verdicts that were used.

    Raises:
        ValueError: No candidate was called right, or none wrong: there is nothing to separate.
    """
    names = NO_LABELS if has_listened(images) else NO_LABELS_VOTE
    table = feature_table(images, names)
    keys = [key for image in images for key in _pairs(image)]
    rows = [row for row, key in enumerate(keys) if key in verdicts]
    found = [verdicts[keys[row]] for row in rows]
    right = np.array([each.is_right for each in found], np.float64)
    if not 0 < right.sum() < len(right):
        raise ValueError(f"{right.sum():g} of {len(right)} verdicts are right. Fitting needs right and wrong ones")
    mean, std = table.mean(axis=0), table.std(axis=0) + 1e-9
    weights = np.array([each.weight for each in found], np.float64)
    bias, slopes = _fitted((table[rows] - mean) / std, right, weights * weights.sum() / (weights**2).sum())
    return rounded_weights(names, slopes / std, float(bias - slopes @ (mean / std))), len(rows)


def _pairs(image: JudgedImage) -> Iterator[tuple[str, str]]:
    return zip(image.rated.groups, image.rated.texts, strict=True)


def _fitted(features: Floats, right: Floats, weights: Floats) -> tuple[float, Floats]:
    """Return bias and slopes of standardised features, (n, F) float64; the sum of `weights` is the effective size."""
    total = features.sum(axis=1)
    ones = np.ones(len(total))
    _, factor = _newton(np.column_stack([ones, total]), right, weights, penalty=np.array([0.0, 1e-3]))
    factor = max(float(factor), _LEAST_FACTOR)
    # Now the factor stands, and each weight may move around it.
    penalty = np.array([0.0, *np.full(features.shape[1], SPREAD**-2)])
    moved = _newton(np.column_stack([ones, factor * features]), right, weights, penalty=penalty, offset=factor * total)
    return float(moved[0]), factor * (1 + moved[1:])


def _newton(table: Floats, right: Floats, weights: Floats, *, penalty: Floats, offset: Floats | float = 0.0) -> Floats:
    """Return the weights that maximise the weighted log-likelihood less half of `penalty` times their squares."""
    found = np.zeros(table.shape[1])
    # So much keeps the curvature invertible where all verdicts of a side are far out.
    ridge = np.diag(penalty + 1e-6)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(table @ found + offset, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
        gradient = table.T @ (weights * (likely - right)) + ridge @ found
        curvature = (table.T * (weights * likely * (1 - likely))) @ table + ridge
        step = np.linalg.solve(curvature, gradient)
        found = found - step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
    return found
