"""How often the rule that an audit chooses reaches its target: by the fixed sequence, and by the best look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments.audits.populations import PairPopulation
from pseudoris.audit.intervals import RaterChecks
from pseudoris.audit.judged_pairs import KINDS, JudgedPairs
from pseudoris.audit.population import Ints
from pseudoris.audit.rule_search import BOUND_QUANTILES, choose_rule
from pseudoris.audit.verdicts import RIGHT
from pseudoris.schemas.keep_rule import Flags, Floats

_NUM_RATERS: Final = 2
# More than the 60 that a correction of raters' errors needs: some of them end as `cannot_say`.
_NUM_TWICE: Final = 70


def searched_rules(
    population: PairPopulation,
    samples: Sequence[tuple[Ints, Floats, Ints]],
    target: float,
    *,
    error: float,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """Return the figures of both ways to choose, by name.

    Args:
        population: Whose pairs are kept above a bound on their score.
        samples: Rows, weights and strata of each audit.
        target: The accuracy to reach.
        error: Share of wrong verdicts. Above 0, pairs that are judged twice tell of them, and accuracies are corrected.
        rng: Draws which verdicts are wrong.
    """
    ordered = np.argsort(-population.score)
    scores = population.score[ordered]
    accuracies = np.cumsum(population.is_right[ordered]) / np.arange(1, len(ordered) + 1)
    loosest = np.flatnonzero(accuracies >= target).max(initial=-1) + 1
    outcomes: dict[str, list[tuple[bool, bool, float]]] = {"fixed sequence": [], "best look": []}
    for rows, weights, strata in samples:
        verdicts, checks = verdicts_of(population.is_right[rows], error, rng)
        judged = _judged(population, (rows, weights, strata), verdicts)
        bounds = np.unique(np.quantile(population.score[rows], BOUND_QUANTILES))[::-1]
        keeps = [population.score[rows] > bound for bound in bounds]
        choice = choose_rule(judged, keeps, [""] * len(keeps), target=target, checks=checks)
        # Weighted means of what each rule keeps; the estimates that a search without tests compares.
        kept = np.array(keeps) * weights
        right = np.nanmean(verdicts, axis=0)
        looks = (kept * right).sum(axis=1) / np.maximum(kept.sum(axis=1), 1e-9)
        best = np.flatnonzero(looks >= target).tolist()
        for name, chosen in (("fixed sequence", choice.chosen), ("best look", best[-1] if best else None)):
            outcomes[name].append(_outcome(chosen, bounds, scores, accuracies, target=target, loosest=loosest))
    return {name: _summary(found) for name, found in outcomes.items()}


def verdicts_of(is_right: Flags, error: float, rng: np.random.Generator) -> tuple[Floats, RaterChecks]:
    """Return what raters say, (2, n) float64: 1 for right, NaN where the second was not asked; and what that tells.

    Args:
        is_right: The truth, (n,) bool.
        error: Share of wrong verdicts; at 0 nobody is asked twice.
        rng: Draws which are wrong, and which pairs are judged twice.
    """
    verdicts = (is_right ^ (rng.random((_NUM_RATERS, len(is_right))) < error)).astype(np.float64)
    is_double = rng.permutation(len(is_right)) < (_NUM_TWICE if error else 0)
    checks = RaterChecks(int(is_double.sum()), int((verdicts[0] != verdicts[1])[is_double].sum()))
    verdicts[1, ~is_double] = np.nan
    return verdicts, checks


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


def _judged(population: PairPopulation, sample: tuple[Ints, Floats, Ints], verdicts: Floats) -> JudgedPairs:
    rows, weights, strata = sample
    none = np.zeros(len(rows), np.bool_)
    counts = np.zeros((len(rows), len(KINDS)), np.int64)
    counts[:, KINDS.index(RIGHT)] = (verdicts == 1).sum(axis=0)
    counts[:, KINDS.index("untrue")] = (verdicts == 0).sum(axis=0)
    return JudgedPairs(
        ids=(),
        counts=counts,
        is_drawn=~none,
        stratum=strata,
        inclusion=1 / weights,
        image=population.image[rows],
        mask=population.mask[rows],
        is_kept=population.is_kept[rows],
        num_kept_of_mask=population.num_kept_of_mask[rows],
    )
