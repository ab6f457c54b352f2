"""Fits lines from an expression's confidence to its `weight`. Called by `cli/audit_report.py` and experiments.

With few verdicts a line stays near the one that leaves the confidence as it is. More confidence never lowers a weight.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import minimize

from pseudoris.audit.draw_files import DRAWN
from pseudoris.audit.intervals import LEAST_CHECKED
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.fitted import Floats, PairWeightConfig, WeightLine, log_odds, logistic
from pseudoris.schemas.keep_rule import COMPOSED_KINDS

# A line is fitted to at least this many verdicts, as many as are needed for the raters' error rate.
LEAST_JUDGED: Final = LEAST_CHECKED
# The slope's prior has this standard deviation and the mean 1. The bias's prior has the mean 0 and deviation 1.
_SLOPE_SPREAD: Final = 0.5
_LEAST_CONFIDENCE: Final = 1e-4
_DIGITS: Final = 3


def fitted_pair_weights(judged: JudgedPairs, confidence: Floats, error: float) -> PairWeightConfig:
    """Return a line for drawn and one for composed expressions, each if enough were judged.

    One line serves all kinds of composed expressions, because 200 verdicts are too few for each. `confidence` is (R,)
    float64 of the judged pairs, NaN without one; `error` is the share of wrong verdicts.
    ConfigError if too few were judged of both.
    """
    is_told = ~np.isnan(confidence) & ~np.isnan(judged.right)
    sorts = {"drawn": (DRAWN,), "composed": COMPOSED_KINDS}
    rows = {name: is_told & np.isin(judged.kind, kinds) for name, kinds in sorts.items()}
    told = ", ".join(f"{int(each.sum()):,} on {name} expressions" for name, each in rows.items())
    lines = {
        name: fit_line_to_verdicts(confidence[each], judged.right[each], error)
        for name, each in rows.items()
        if each.sum() >= LEAST_JUDGED
    }
    if not lines:
        raise ConfigError(f"too few verdicts where there is a confidence ({told}): a line needs {LEAST_JUDGED} of one")
    return PairWeightConfig(**lines)


def fit_line_to_verdicts(confidence: Floats, right: Floats, error: float) -> WeightLine:
    """Return the line that verdicts make likeliest, each of them wrong with probability `error`.

    `confidence` and `right` are (T,) float64 in [0, 1].
    """
    odds = log_odds(np.clip(confidence, _LEAST_CONFIDENCE, 1 - _LEAST_CONFIDENCE))

    def loss(line: Floats) -> float:
        said = error + (1 - 2 * error) * np.clip(logistic(line[0] + line[1] * odds), 1e-6, 1 - 1e-6)
        surprise = -(right * np.log(said) + (1 - right) * np.log(1 - said)).sum()
        return float(surprise + (line[0] ** 2 + ((line[1] - 1) / _SLOPE_SPREAD) ** 2) / 2)

    bias, slope = minimize(loss, np.array([0.0, 1.0]), method="L-BFGS-B", bounds=[(-9, 9), (0, 9)]).x
    return WeightLine(bias=round(float(bias), _DIGITS), slope=round(float(slope), _DIGITS))
