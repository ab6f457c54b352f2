"""From probabilities to log-odds and back."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

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
