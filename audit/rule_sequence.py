"""Keep rules from strict to loose, and what each keeps of an audit's pairs, by their stored scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.audit.sample_tables import STORED_SCORES
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.keep_rule import Flags, Floats, KeepCondition, KeepRule, meets
from pseudoris.schemas.shard import SOURCE_MODEL

# Bounds are these quantiles of the drawn pairs' scores.
BOUND_QUANTILES: Final = np.linspace(0.95, 0.0, 20)
_DIGITS: Final = 3
_Bound = Literal["confidence", "tau"]


@dataclass(frozen=True, eq=False)
class SequencedRule:
    """A rule of the sequence, and what it keeps.

    Attributes:
        name: What differs from the other rules: `confidence > 0.62`.
        rule: The whole rule.
        keeps: (R,) bool, of the audit's pairs.
    """

    name: str
    rule: KeepRule
    keeps: Flags


def rule_sequence(audit: AuditFolder, judged: JudgedPairs, rule: KeepRule) -> list[SequencedRule]:
    """Return rules that differ from `rule` in one bound, from strict to loose; no verdict has a part in them.

    The bound is on `confidence` if the run has one, else `tau`. All else stays: other conditions, lone masks, and what
    no score decides, which is composed and human expressions and groups.

    Raises:
        ConfigError: The rule has no tau, keeps the better half of lone masks, or no pair has a score.
    """
    if rule.tau is None:
        raise ConfigError("the run's scorer is another package's, whose tau is not known: give --tau or --keep instead")
    if rule.lone_masks == "better_half":
        raise ConfigError(
            "the run keeps the better half of a lone mask's captions, which a sample does not tell. Refilter with "
            "--lone-masks keep or drop first"
        )
    scores = {name: np.array(audit.pairs[name].to_pylist(), np.float64) for name in STORED_SCORES}
    is_scored = _is_scored(audit)
    bound: _Bound = "tau" if rule.confidence is None else "confidence"
    values = scores["distinctiveness" if bound == "tau" else "confidence"]
    known = values[is_scored & judged.is_drawn & ~np.isnan(values)]
    if not len(known):
        raise ConfigError(
            f"no pair of the audit has a {'distinctiveness' if bound == 'tau' else 'confidence'} to bound"
        )
    bounds = np.maximum(np.floor(np.quantile(known, BOUND_QUANTILES) * 10**_DIGITS) / 10**_DIGITS, 0.0)
    found = []
    for value in sorted(set(bounds.tolist()), reverse=True):
        name, changed = _changed(rule, bound, value)
        keeps = np.where(is_scored, _passes(changed, scores), judged.is_kept)
        found.append(SequencedRule(name, changed, keeps))
    return found


def _is_scored(audit: AuditFolder) -> Flags:
    columns = (audit.pairs[name].to_pylist() for name in ("source", "mask_ids"))
    rows = zip(*columns, strict=True)
    return np.array([source == SOURCE_MODEL and len(masks) == 1 for source, masks in rows], np.bool_)


def _changed(rule: KeepRule, bound: _Bound, value: float) -> tuple[str, KeepRule]:
    if bound == "tau":
        return f"distinctiveness > {value:g}", replace(rule, tau=value)
    condition = KeepCondition(column="confidence", comparison=">", bound=value)
    others = (each for each in rule.conditions if each.column != "confidence")
    return str(condition), replace(rule, conditions=(*others, condition))


def _passes(rule: KeepRule, scores: dict[str, Floats]) -> Flags:
    distinctiveness = scores["distinctiveness"]
    passing = (distinctiveness > (rule.tau or 0.0)) | (np.isnan(distinctiveness) & (rule.lone_masks == "keep"))
    return passing & meets(rule.conditions, scores, len(passing))
