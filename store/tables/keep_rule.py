"""The rule of what is kept, on a shard's expressions table: what `refilter` applies and `verify` holds a run to."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.keep_rule import SCORE_COLUMNS, Flags, Floats, KeepRule, is_above, meets
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_MODEL

# An engine of another package may keep by a bound of its own; that it kept by one bound can be seen.
SOME_TAU: Final = KeepRule(tau=None)
# The scorer of this package: what it keeps is what lies above `filtering.tau`.
_OWN_SCORER: Final = "clip"


def rule_of(header: RunHeader) -> KeepRule:
    """Return what the run of `header` keeps.

    Where a filter stage decided, its tau is not held against the tables: a plug-in's scores may be bounded
    otherwise. A refilter's rule is exact.
    """
    filtering = header.config.filtering
    return KeepRule(filtering.tau if header.origin == "refilter" else None, filtering.keep, filtering.confidence)


def stated_rule(header: RunHeader) -> KeepRule | None:
    """Return what a person is told that the run of `header` keeps; None where no score decided: of an import, of PPT's.

    It has a tau where that is the bound: where our own scorer decided, or a refilter.
    """
    if header.origin in ("import", "ppt"):
        return None
    filtering = header.config.filtering
    is_known = header.origin == "refilter" or filtering.engine == _OWN_SCORER
    return KeepRule(filtering.tau if is_known else None, filtering.keep, filtering.confidence)


def judged(table: pa.Table) -> Flags:
    """Return (rows,) bool: expressions that scores decide on.

    A human's and the composer's are kept whatever the rule, and those of several masks or none have scores of another
    meaning.
    """
    is_single = pc.equal(pc.list_value_length(table["target_mask_ids"]), 1)
    return flags_of(is_single) & flags_of(pc.equal(pc.fill_null(table["source"], SOURCE_MODEL), SOURCE_MODEL))


def passes(rule: KeepRule, table: pa.Table) -> Flags:
    """Return (rows,) bool: what `rule` keeps of the expressions that are `judged`.

    Raises:
        ValueError: The rule has no tau.
    """
    if rule.tau is None:
        raise ValueError(f"a rule without tau tells of no expression whether it is kept: {rule}")
    scores = scores_of(table)
    return is_above(scores["distinctiveness"], rule.tau) & meets(rule.conditions, scores, table.num_rows)


def scores_of(table: pa.Table) -> dict[str, Floats]:
    """Return every score by its column, (rows,) float64, NaN where it is null."""
    return {
        name: np.asarray(pc.fill_null(table[name].cast(pa.float64()), np.nan).to_numpy(), np.float64)
        for name in SCORE_COLUMNS
    }


def is_from(table: pa.Table, source: str) -> Flags:
    """Return (rows,) bool: expressions that a source wrote. Tables of version 1 do not say."""
    return flags_of(pc.fill_null(pc.equal(table["source"], source), fill_value=False))


def flags_of(column: pa.ChunkedArray) -> Flags:
    """Return a column without nulls as (rows,) bool."""
    return np.asarray(column.to_numpy(), np.bool_)
