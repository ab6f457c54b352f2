"""Logistic regression by Newton's method, with a slight ridge."""

from __future__ import annotations

from typing import Final

import numpy as np

from pseudoris.schemas.keep_rule import Floats

# Against weights without bound; in units of standardised features.
_RIDGE: Final = 1e-3
_STEPS: Final = 40
# Beyond it a probability is 0 or 1 to float64, and its exponential may overflow.
_MAX_LOG_ODDS: Final = 30.0


def logistic_regression(table: Floats, right: Floats) -> tuple[float, Floats]:
    """Return bias and slopes, (F,) float64, of F features; the ridge is on the slopes in standard deviations.

    Args:
        table: (T, F) float64.
        right: (T,) float64 in [0, 1], not all 0 and not all 1.
    """
    mean, std = table.mean(axis=0), table.std(axis=0) + 1e-9
    found = _newton(np.column_stack([np.ones(len(table)), (table - mean) / std]), right)
    slopes = found[1:] / std
    return float(found[0] - slopes @ mean), slopes


def _newton(table: Floats, right: Floats) -> Floats:
    penalty = _RIDGE * np.eye(table.shape[1])
    penalty[0, 0] = 0.0
    weights, total = np.zeros(table.shape[1]), len(table)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(table @ weights, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
        gradient = table.T @ (likely - right) / total + penalty @ weights
        curvature = (table.T * (likely * (1 - likely))) @ table / total + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights
