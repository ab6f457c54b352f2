"""How often the rule that an audit chooses reaches its target: by the fixed sequence, and by the best look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments.audits.populations import PairPopulation
from pseudoris.audit.judged_pairs import KINDS, JudgedPairs
from pseudoris.audit.rater_errors import RaterChecks
from pseudoris.audit.rule_search import choose_rule
from pseudoris.audit.rule_sequence import BOUND_QUANTILES
from pseudoris.audit.sample_rows import Ints
from pseudoris.audit.verdict_lines import RIGHT
from pseudoris.schemas.keep_rule import Floats

_NO_CHECKS: Final = RaterChecks(0, 0)


def searched_rules(
    population: PairPopulation, samples: Sequence[tuple[Ints, Floats, Ints]], target: float
) -> dict[str, dict[str, Any]]:
    """Return the figures of both ways to choose, by name.

    Args:
        population: Whose pairs are kept above a bound on their score.
        samples: Rows, weights and strata of each audit.
        target: The accuracy to reach.
    """
    ordered = np.argsort(-population.score)
    scores = population.score[ordered]
    accuracies = np.cumsum(population.is_right[ordered]) / np.arange(1, len(ordered) + 1)
    loosest = np.flatnonzero(accuracies >= target).max(initial=-1) + 1
    outcomes: dict[str, list[tuple[bool, bool, float]]] = {"fixed sequence": [], "best look": []}
    for rows, weights, strata in samples:
        judged = _judged(population, rows, weights, strata)
        bounds = np.unique(np.quantile(population.score[rows], BOUND_QUANTILES))[::-1]
        keeps = [population.score[rows] > bound for bound in bounds]
        choice = choose_rule(judged, keeps, [""] * len(keeps), target=target, checks=_NO_CHECKS)
        # Weighted means of what each rule keeps; the estimates that a search without tests compares.
        kept = np.array(keeps) * weights
        looks = (kept * population.is_right[rows]).sum(axis=1) / np.maximum(kept.sum(axis=1), 1e-9)
        best = np.flatnonzero(looks >= target).tolist()
        for name, chosen in (("fixed sequence", choice.chosen), ("best look", best[-1] if best else None)):
            outcomes[name].append(_outcome(chosen, bounds, scores, accuracies, target=target, loosest=loosest))
    return {name: _summary(found) for name, found in outcomes.items()}


def _outcome(
    chosen: int | None, bounds: Floats, scores: Floats, accuracies: Floats, *, target: float, loosest: int
) -> tuple[bool, bool, float]:
    """Return whether a rule was chosen, whether it reaches the target, and its yield, of the loosest that does."""
    if chosen is None:
        return False, True, 0.0
    kept = int((scores > bounds[chosen]).sum())
    return True, bool(accuracies[max(kept - 1, 0)] >= target), kept / loosest if loosest else 0.0


def _summary(found: Sequence[tuple[bool, bool, float]]) -> dict[str, Any]:
    chosen, reaches, kept = (np.array([each[part] for each in found], np.float64) for part in range(3))
    return {
        "interval_coverage": round(float(reaches.mean()), 4),
        "chosen": round(float(chosen.mean()), 4),
        "kept_of_possible": round(float(kept[chosen > 0].mean()), 4) if chosen.any() else None,
    }


def _judged(population: PairPopulation, rows: Ints, weights: Floats, strata: Ints) -> JudgedPairs:
    right, none = population.is_right[rows], np.zeros(len(rows), np.bool_)
    counts = np.zeros((len(rows), len(KINDS)), np.int64)
    counts[np.arange(len(rows)), np.where(right, KINDS.index(RIGHT), KINDS.index("untrue"))] = 1
    return JudgedPairs(
        ids=(),
        counts=counts,
        is_drawn=~none,
        is_planted=none,
        stratum=strata,
        inclusion=1 / weights,
        image=population.image[rows],
        mask=population.mask[rows],
        is_kept=population.is_kept[rows],
        num_kept_of_mask=population.num_kept_of_mask[rows],
        click_in_mask=np.full(len(rows), np.nan),
    )
