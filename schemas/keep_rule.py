"""Which expressions are kept: the bound tau on distinctiveness, and bounds on other scores. Called by most rooms.

The filter stage, `refilter`, `verify`, audits and readers must keep the same rows. `viewer/templates/rules.js` repeats
the rule for the gallery's slider, so a change must be made there too.

An undefined score passes every bound. A kind of composed expressions, such as `position`, stands for their confidence:
`position > 0.9` decides about these alone, and the other bounds do not touch them. A mask alone in its image has no
distinctiveness: `lone_masks` decides about it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.fitted import ConfidenceConfig, Floats, PairWeightConfig
from pseudoris.schemas.stage_settings import ComposedKind

LoneMasks = Literal["keep", "drop", "better_half"]
LONE_MASKS: Final[tuple[LoneMasks, ...]] = get_args(LoneMasks)

Ints = npt.NDArray[np.int64]


def is_lone(distinctiveness: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return (T,) bool: whether each candidate's mask is alone in its image; ask only for candidates of a model."""
    return np.isnan(distinctiveness)


def lone_draws(
    lone_masks: LoneMasks, *, masks: npt.ArrayLike, correctness: npt.NDArray[np.float64], counts: npt.ArrayLike
) -> Ints:
    """Return (T,) int64: how many draws of each candidate are kept; the candidates are those of lone masks.

    Args:
        lone_masks: `keep`: all draws. `drop`: none. `better_half`: of the draws of each mask, the half with the highest
            correctness, rounded down, at least one. Of equal draws the last row's come first, as in the authors'
            reversed sort; undefined ones are last.
        masks: (T,), the mask of each candidate: ids or numbers.
        correctness: (T,), NaN where undefined.
        counts: (T,) int, how often the captioner drew the text; 0 counts as 1.

    Source: the loader of the Pseudo-RIS authors (method page, section 5) for `better_half`.
    """
    draws = np.maximum(np.asarray(counts, np.int64), 1)
    if lone_masks != "better_half":
        return draws if lone_masks == "keep" else np.zeros_like(draws)
    _, numbers = np.unique(np.asarray(masks), return_inverse=True)
    # `lexsort` puts NaN last, so draws without a correctness count as the worst.
    order = np.lexsort((-np.arange(len(draws)), -correctness, numbers))
    totals = np.bincount(numbers, weights=draws).astype(np.int64)
    before = np.cumsum(draws[order]) - draws[order] - (np.cumsum(totals) - totals)[numbers[order]]
    kept = np.zeros_like(draws)
    kept[order] = np.clip(np.maximum(totals // 2, 1)[numbers[order]] - before, 0, draws[order])
    return kept


# Drawn candidates have these scores only if `captions.listening` or `filtering.fitted` is set, or in older runs.
OptionalColumn = Literal[
    "caption_score", "listener", "truth", "confidence", "rank", "grounding_choice", "grounding_share"
]
ScoreColumn = Literal["uniqueness", "correctness", "distinctiveness", "log_prob", "count", OptionalColumn]
Comparison = Literal[">", ">=", "<", "<="]
SCORE_COLUMNS: Final[tuple[ScoreColumn, ...]] = get_args(ScoreColumn)
OPTIONAL_COLUMNS: Final[tuple[ScoreColumn, ...]] = get_args(OptionalColumn)
COMPOSED_KINDS: Final[tuple[ComposedKind, ...]] = get_args(ComposedKind)
# Those that refer to one mask; the others refer to several, or to none.
ONE_MASK: Final[tuple[ComposedKind, ...]] = ("attribute", "position", "relation")
# A condition of `filtering.keep` may bound these names.
BOUNDED: Final = (*SCORE_COLUMNS, *COMPOSED_KINDS)

Flags = npt.NDArray[np.bool_]

_WRITTEN: Final = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_COMPARE: Final[dict[Comparison, np.ufunc]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}


def _digits(bound: float) -> str:
    """Return the shortest text that reads as the same number: a rounded bound would decide otherwise."""
    return repr(float(bound)).removesuffix(".0")


class KeepCondition(BaseModel):
    """A bound on one score of a candidate, written `correctness > 0.2`.

    Attributes:
        comparison: Compares the value, on the left, with the bound.
        bound: Finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: ScoreColumn | ComposedKind
    comparison: Comparison
    bound: float = Field(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _WRITTEN.fullmatch(value)
        if match is None or match[1] not in BOUNDED:
            words = re.findall(r"\w+", value)
            near = difflib.get_close_matches(words[0], BOUNDED, n=1) if words else []
            hint = f": did you mean {near[0]}?" if near and near[0] != words[0] else "."
            form = f"Write a score ({', '.join(BOUNDED)}), then {', '.join(_COMPARE)}, then a number"
            raise ValueError(f"{value!r} is not a condition such as 'correctness > 0.2'{hint} {form}")
        return {"column": match[1], "comparison": match[2], "bound": match[3]}

    @model_serializer
    def _as_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.column} {self.comparison} {_digits(self.bound)}"


@dataclass(frozen=True, slots=True)
class KeepRule:
    """The conditions under which a candidate of one mask is kept.

    Attributes:
        tau: Distinctiveness must be strictly above it; None if a plug-in engine decided by an unknown bound.
        conditions: All of them must hold.
        confidence: How to compute the columns `confidence` and `rank`, which conditions may bound, from the others.
        lone_masks: What is kept, in place of tau, of a mask alone in its image.
        pair_weight: How to compute the column `weight` from `confidence`. It decides nothing about what is kept.
    """

    tau: float | None
    conditions: tuple[KeepCondition, ...] = ()
    confidence: ConfidenceConfig | None = None
    lone_masks: LoneMasks = "keep"
    pair_weight: PairWeightConfig | None = None

    def __str__(self) -> str:
        tau = "distinctiveness > some tau" if self.tau is None else f"distinctiveness > {_digits(self.tau)}"
        rule = " and ".join([tau, *map(str, self.conditions)])
        return rule if self.lone_masks == "keep" else f"{rule}; lone masks: {self.lone_masks}"


def parse_conditions(words: Iterable[str]) -> tuple[KeepCondition, ...]:
    """Return conditions from words such as "correctness > 0.2"; ConfigError if one is not a condition."""
    try:
        return tuple(KeepCondition.model_validate(word) for word in words)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        text = item["msg"].removeprefix("Value error, ")
        given = repr(item["input"])
        raise ConfigError(f"--keep: {text}" if given in text else f"--keep: {text} (got {given})") from None


def keeps(rule: KeepRule, scores: Mapping[str, Floats], masks: npt.ArrayLike) -> Flags:
    """Return (T,) bool: whether `rule` keeps each candidate of a model.

    Args:
        rule: With a tau.
        scores: By column, (T,) float64, NaN where undefined; `distinctiveness`, `correctness`, `count`, and the columns
            that the conditions name.
        masks: (T,), the mask that each candidate refers to: ids or numbers.
    """
    if rule.tau is None:
        raise ValueError(f"cannot tell what is kept by a rule without tau: {rule}")
    passing = scores["distinctiveness"] > rule.tau
    passing |= keeps_lone(rule.lone_masks, scores, masks)
    return passing & meets(rule.conditions, scores, len(passing))


def keeps_lone(lone_masks: LoneMasks, scores: Mapping[str, Floats], masks: npt.ArrayLike) -> Flags:
    """Return (T,) bool: whether the candidate is a lone mask's, and kept; the arguments are those of `keeps`."""
    kept = np.isnan(scores["distinctiveness"])
    rows = np.flatnonzero(kept)
    draws = lone_draws(
        lone_masks, masks=np.asarray(masks)[rows], correctness=scores["correctness"][rows], counts=scores["count"][rows]
    )
    kept[rows] = draws > 0
    return kept


def meets(conditions: Sequence[KeepCondition], scores: Mapping[str, Floats], num_candidates: int) -> Flags:
    """Return (T,) bool: whether every condition holds for the candidate, or its score is undefined.

    Args:
        conditions: Any number.
        scores: By column, (T,) float64, NaN where undefined; at least the columns that the conditions name. Without
            those of composed kinds, conditions on these are left out.
        num_candidates: T.
    """
    met = np.ones(num_candidates, np.bool_)
    for condition in conditions:
        if condition.column in COMPOSED_KINDS and condition.column not in scores:
            continue
        values = scores[condition.column]
        met &= np.isnan(values) | _COMPARE[condition.comparison](values, condition.bound)
    return met
