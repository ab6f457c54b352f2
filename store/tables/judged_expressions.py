"""Applies the keep rule to rows of models and composer, never to others. For `refilter`, `verify` and most rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.fitted import Floats, PairWeightConfig, line_weights
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, SCORE_COLUMNS, Flags, KeepCondition, KeepRule, keeps, meets
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_MODEL

# Plug-in engines get this rule, because their tau may be unknown: checks ask whether any tau explains what was kept.
SOME_TAU: Final = KeepRule(tau=None)


def rule_of(header: RunHeader) -> KeepRule:
    """Return the keep rule to check a run's tables by.

    Only a refilter's rule has a tau. A filter stage may be a plug-in with another bound, so its tau is not checked.
    """
    filtering = header.config.filtering
    tau, fitted = filtering.tau if header.origin == "refilter" else None, filtering.fitted_values
    return KeepRule(tau, filtering.keep, fitted.confidence, filtering.lone_masks, fitted.pair_weight)


def stated_rule(header: RunHeader) -> KeepRule | None:
    """Return the keep rule to show to people; None for imports and PPT's runs, where no score decides.

    It has a tau only if that is known to be the bound: for our own scorer and for a refilter. A combined run has one
    only if all of its runs have the same.
    """
    if header.combined:
        first, *rest = map(stated_rule, header.runs)
        return first if all(each == first for each in rest) else None
    if header.origin == "ppt" or header.is_human:
        return None
    filtering, rule = header.config.filtering, rule_of(header)
    return replace(rule, tau=filtering.tau) if filtering.engine == "clip" else rule


def check_scored(config: RunConfig, conditions: Sequence[KeepCondition], where: str) -> None:
    """Refuse conditions on a score that no stage of a run computes: an undefined score passes every bound.

    Engines of a plug-in may compute any. `where` names the run in the error.
    """
    lacking = dict[str, str]()
    if config.filtering.engine == "clip" and config.filtering.fitted_values.confidence is None:
        remedy = "a confidence in the file of filtering.fitted, as the preset tiny-composed has it"
        lacking |= dict.fromkeys(("confidence", "rank"), remedy)
    if config.captions.engine in ("coca", "vlm") and config.captions.listening is None:
        lacking |= dict.fromkeys(("caption_score", "listener", "truth"), "captions.listening")
    if config.grounding_check is None:
        lacking |= dict.fromkeys(("grounding_choice", "grounding_share"), "grounding_check of 0.6.0")
    composed = () if config.composing is None else config.composing.kinds
    lacking |= {kind: f"{kind} in composing.kinds" for kind in COMPOSED_KINDS if kind not in composed}
    for condition in conditions:
        if setting := lacking.get(condition.column):
            others = ", ".join(name for name in SCORE_COLUMNS if name not in lacking)
            raise ConfigError(
                f"{where} has no {condition.column}: '{condition}' would keep all. Bound {others}, or annotate with "
                f"{setting}"
            )


def judged(table: pa.Table) -> Flags:
    """Return (rows,) bool: whether scores decide on the expression. It must be a model's, of exactly one mask.

    No rule decides on other sources, and scores of several masks or none have another meaning.
    """
    is_single = pc.equal(pc.list_value_length(table["target_mask_ids"]), 1)
    return flags_of(is_single) & is_from(table, SOURCE_MODEL)


def num_kept_lone(table: pa.Table) -> int:
    """Return how many kept rows no filter compared: captions of a mask that is alone in its image."""
    return int((flags_of(table["kept"]) & judged(table) & flags_of(pc.is_null(table["distinctiveness"]))).sum())


def passes(rule: KeepRule, table: pa.Table) -> Flags:
    """Return (rows,) bool: whether `rule`, which has a tau, keeps each row that is `judged`; False for the others."""
    rows = np.flatnonzero(judged(table))
    passing = np.zeros(table.num_rows, np.bool_)
    scores = {name: values[rows] for name, values in scores_of(table).items()}
    passing[rows] = keeps(rule, scores, target_masks(table, rows))
    return passing


def keeps_composed(rule: KeepRule, table: pa.Table) -> Flags:
    """Return (rows,) bool: whether `rule` keeps each row of the composer; False for the others."""
    is_composed, confidence = is_from(table, SOURCE_COMPOSER), floats_of(table["confidence"])
    kinds = np.array(table["kind"].to_pylist(), np.str_)
    scores: dict[str, Floats] = {kind: np.where(kinds == kind, confidence, np.nan) for kind in COMPOSED_KINDS}
    bounds = [each for each in rule.conditions if each.column in COMPOSED_KINDS]
    return is_composed & meets(bounds, scores, table.num_rows)


def weights_by(config: PairWeightConfig, table: pa.Table) -> Floats:
    """Return the column `weight`, (rows,) float64, with what `config` gives to the model's and the composer's rows."""
    found = np.array(table["weight"].to_numpy(), np.float64)
    confidence = floats_of(table["confidence"])
    for rows, line in ((judged(table), config.drawn), (is_from(table, SOURCE_COMPOSER), config.composed)):
        found[rows] = line_weights(line, confidence[rows])
    return found


def target_masks(table: pa.Table, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (len(rows),) int64: a number for the mask of each of the rows, which refer to one mask each."""
    targets = pc.list_flatten(table["target_mask_ids"].combine_chunks().take(pa.array(rows)))
    return np.asarray(targets.dictionary_encode().indices.to_numpy(), np.int64)


def scores_of(table: pa.Table) -> dict[str, Floats]:
    """Return each score column by name as (rows,) float64, with NaN for null."""
    return {name: floats_of(table[name]) for name in SCORE_COLUMNS}


def is_from(table: pa.Table, source: str) -> Flags:
    """Return (rows,) bool: whether `source` wrote the row."""
    return flags_of(pc.fill_null(pc.equal(table["source"], source), fill_value=False))


def flags_of(column: pa.ChunkedArray) -> Flags:
    """Return a column without nulls as (rows,) bool."""
    return np.asarray(column.to_numpy(), np.bool_)


def floats_of(column: pa.ChunkedArray) -> Floats:
    """Return a numeric column, (rows,) float64, NaN where it is null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), np.float64)
