"""The column `weight`: the probability that an expression is right, from the column `confidence`.

`confidence` ranks well but may be too sure of itself, or not sure enough. A line in its log-odds, fitted to labels,
corrects that. The filter stage, the composer, `refilter` and `verify` share it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydantic import Field

from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.log_odds import Floats, log_odds, logistic

# Rounded, so that an exponential that differs in its last bits gives the same weight.
WEIGHT_DIGITS: Final = 6


class WeightLine(FrozenModel):
    """The probability is logistic(bias + slope · log-odds of confidence); the defaults leave confidence as it is."""

    bias: float = Field(default=0.0, allow_inf_nan=False)
    # Below 1 confidence was too sure of itself, above 1 not sure enough. 0: all expressions weigh the same.
    slope: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class PairWeightConfig(FrozenModel):
    """How `weight` follows from `confidence`. Fitted lines are valid only for the models they were fitted with.

    An expression without a confidence, such as a human's, has the weight 1.
    """

    # Of the captioner's expressions, by `filtering.confidence`. None: their weight is 1.
    drawn: WeightLine | None = None
    # Of the composer's, by `composing.posterior`. None: their weight is 1.
    composed: WeightLine | None = None


def line_weights(line: WeightLine | None, confidence: Floats) -> Floats:
    """Return the weight of each of T expressions, (T,) float64 in [0, 1]; 1 without a line or a confidence."""
    if line is None:
        return np.ones(len(confidence))
    found = logistic(line.bias + line.slope * log_odds(confidence))
    return np.asarray(np.where(np.isnan(found), 1.0, np.round(found, WEIGHT_DIGITS)))
