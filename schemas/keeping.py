"""Which candidate expressions are kept: tau, and bounds on scores. The filter stage, `refilter`, `verify` share it.

A score that is undefined is held against nobody: a mask alone in its image has no rival, and so no distinctiveness.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from schemas.listening import ConfidenceConfig

ScoreColumn = Literal[
    "uniqueness",
    "correctness",
    "distinctiveness",
    "log_prob",
    "count",
    "caption_score",
    "listener",
    "truth",
    "confidence",
    "rank",
]
Comparison = Literal[">", ">=", "<", "<="]
SCORE_COLUMNS: Final[tuple[ScoreColumn, ...]] = get_args(ScoreColumn)
# Of these, what is null of the drawn unless `captions.listening` and `filtering.confidence` are set.
LISTENER_COLUMNS: Final[tuple[ScoreColumn, ...]] = ("caption_score", "listener", "truth", "confidence", "rank")

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_WRITTEN: Final = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_COMPARE: Final[dict[Comparison, np.ufunc]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}


class KeepCondition(BaseModel):
    """A bound on one score of a candidate, written `correctness > 0.2`; what meets it may be kept.

    Attributes:
        column: A column of the expressions table.
        comparison: Between its value, on the left, and the bound.
        bound: Finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: ScoreColumn
    comparison: Comparison
    bound: float = Field(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _WRITTEN.fullmatch(value)
        if match is None or match[1] not in SCORE_COLUMNS:
            raise ValueError(
                f"{value!r} is no condition such as 'correctness > 0.2': a column ({', '.join(SCORE_COLUMNS)}), "
                f"then {', '.join(_COMPARE)}, then a number"
            )
        return {"column": match[1], "comparison": match[2], "bound": match[3]}

    @model_serializer
    def _as_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.column} {self.comparison} {repr(self.bound).removesuffix('.0')}"


@dataclass(frozen=True, slots=True)
class KeepRule:
    """What a candidate of one mask must meet to be kept.

    Attributes:
        tau: Distinctiveness lies strictly above; None where an engine decided by a bound that is not known here.
        conditions: All of them hold.
        confidence: How the columns `confidence` and `rank`, which they may bound, follow from the others.
    """

    tau: float | None
    conditions: tuple[KeepCondition, ...] = ()
    confidence: ConfidenceConfig | None = None

    def __str__(self) -> str:
        tau = "distinctiveness > some tau" if self.tau is None else f"distinctiveness > {self.tau:g}"
        return " and ".join([tau, *map(str, self.conditions)])


def is_above(distinctiveness: Floats, tau: float) -> Flags:
    """Return (T,) bool: strictly above `tau`, or undefined (NaN)."""
    return ~(distinctiveness <= tau)


def meets(conditions: Sequence[KeepCondition], scores: Mapping[str, Floats], num_candidates: int) -> Flags:
    """Return (T,) bool: every condition holds of the candidate, or its score is undefined.

    Args:
        conditions: Any number.
        scores: By column, (T,) float64, NaN where undefined; those of the conditions at least.
        num_candidates: T.
    """
    met = np.ones(num_candidates, np.bool_)
    for condition in conditions:
        values = scores[condition.column]
        met &= np.isnan(values) | _COMPARE[condition.comparison](values, condition.bound)
    return met
