"""Lines from `confidence` to the probability that an expression is right, fitted to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pseudoris.schemas.caption_settings import ConfidenceConfig
from pseudoris.schemas.confidence import confidence_of
from pseudoris.schemas.keep_rule import Floats
from pseudoris.schemas.log_odds import log_odds
from pseudoris.schemas.pair_weight import PairWeightConfig, WeightLine
from pseudoris.training.calibration.labelled_images import JudgedImage
from pseudoris.training.calibration.logistic_regression import logistic_regression

_DIGITS: Final = 3
# With fewer right or wrong ones a line says more of chance than of the models.
_LEAST_OF_EACH: Final = 5


def fit_pair_weight(images: Sequence[JudgedImage], config: ConfidenceConfig) -> PairWeightConfig | None:
    """Return the lines for drawn and composed expressions; None without enough verdicts for either.

    Args:
        images: Judged by a truth.
        config: How confidence follows from the scores of what was drawn. A composed expression has its own.
    """
    none = np.zeros(0)
    drawn = np.concatenate([none, *(confidence_of(image.features, config) for image in images)])
    drawn_right = np.concatenate([none, *(image.is_right for image in images)])
    composed = np.concatenate([none, *(image.beside.confidence for image in images)])
    composed_right = np.concatenate([none, *(image.beside.is_right for image in images)])
    lines = fit_line(drawn, drawn_right), fit_line(composed, composed_right)
    return None if lines == (None, None) else PairWeightConfig(drawn=lines[0], composed=lines[1])


def fit_line(confidence: Floats, right: Floats) -> WeightLine | None:
    """Return the line with the highest likelihood; None with too few right or too few wrong expressions.

    Args:
        confidence: (T,) float64 in [0, 1]; rows with NaN are left out.
        right: (T,) bool or float64, 1 for a right one.
    """
    rows = ~np.isnan(confidence)
    odds, right = log_odds(confidence[rows]), np.asarray(right[rows], np.float64)
    if min(right.sum(), (1 - right).sum()) < _LEAST_OF_EACH:
        return None
    bias, (slope,) = logistic_regression(odds[:, None], right)
    if slope <= 0:
        # An accident of few verdicts: less confidence never means more.
        bias, slope = float(log_odds(np.array([right.mean()]))[0]), 0.0
    return WeightLine(bias=round(bias, _DIGITS), slope=round(float(slope), _DIGITS))
