"""How far raters agree beyond chance: Cohen's κ of two raters, Fleiss' κ of all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pseudoris.audit.judged_pairs import KINDS, Ints, JudgedPairs
from pseudoris.audit.rater_errors import RaterChecks
from pseudoris.audit.verdict_file import RaterAnswers
from pseudoris.audit.verdict_lines import CANNOT_SAY, RIGHT


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two raters, or of all.

    Attributes:
        raters: Their names.
        num_pairs: Pairs that two or more of them judged.
        same: Share of equal verdicts: 1 if all agree.
        kappa: Of the five verdicts; None where chance alone makes all equal.
        kappa_right: The same of "right" against the rest.
    """

    raters: tuple[str, ...]
    num_pairs: int
    same: float
    kappa: float | None
    kappa_right: float | None


def agreements(answers: Sequence[RaterAnswers]) -> list[Agreement]:
    """Return the agreement of every two raters with a pair in common, and of all of them if there are more than two."""
    groups: list[tuple[RaterAnswers, ...]] = list(itertools.combinations(answers, 2))
    if len(answers) > 2:
        groups.append(tuple(answers))
    found = []
    for group in groups:
        counts = _counts(group)
        if len(counts):
            binary = np.column_stack([counts[:, KINDS.index(RIGHT)], np.delete(counts, KINDS.index(RIGHT), 1).sum(1)])
            # Two raters have habits of their own, which Cohen's chance agreement counts; more of them share Fleiss'.
            kappa, kappa_right = (
                (_cohen(group), _cohen(group, is_binary=True)) if len(group) == 2 else (fleiss(counts), fleiss(binary))
            )
            raters = tuple(rater.rater for rater in group)
            found.append(Agreement(raters, len(counts), float(_same(counts).mean()), kappa, kappa_right))
    return found


def fleiss(counts: Ints) -> float | None:
    """Return Fleiss' κ of (N, K) counts, two or more verdicts a row; rows may have different numbers of them.

    Source: J. L. Fleiss, Psychological Bulletin 76 (1971); chance agreement from all verdicts together.
    """
    by_chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if by_chance >= 1 else float((_same(counts).mean() - by_chance) / (1 - by_chance))


def rater_checks(judged: JudgedPairs, answers: Sequence[RaterAnswers]) -> RaterChecks:
    """Return what was judged twice, by the first two raters who could say, and what is known of planted pairs."""
    num_twice = num_differ = 0
    for pair, is_planted in zip(judged.ids, judged.is_planted.tolist(), strict=True):
        said = [rater.verdicts[pair].verdict for rater in answers if pair in rater.verdicts]
        said = [verdict for verdict in said if verdict != CANNOT_SAY]
        if len(said) > 1 and not is_planted:
            num_twice += 1
            num_differ += (said[0] == RIGHT) != (said[1] == RIGHT)
    planted = judged.counts[judged.is_planted].sum(axis=0)
    num_planted = int(planted.sum() - planted[KINDS.index(CANNOT_SAY)])
    return RaterChecks(num_twice, num_differ, num_planted, int(planted[KINDS.index(RIGHT)]))


def _counts(raters: Sequence[RaterAnswers]) -> Ints:
    """Return (N, 5) counts of the verdicts on the pairs that two or more of the raters judged."""
    rows = []
    for pair in sorted(set().union(*(rater.verdicts for rater in raters))):
        said = [KINDS.index(rater.verdicts[pair].verdict) for rater in raters if pair in rater.verdicts]
        if len(said) > 1:
            rows.append(np.bincount(said, minlength=len(KINDS)))
    return np.array(rows, np.int64).reshape(-1, len(KINDS))


def _same(counts: Ints) -> np.ndarray:
    """Return (N,) float64: of all pairs of verdicts on a row, the share that is equal."""
    total = counts.sum(axis=1)
    return np.asarray((counts * (counts - 1)).sum(axis=1) / (total * (total - 1)))


def _cohen(raters: Sequence[RaterAnswers], *, is_binary: bool = False) -> float | None:
    """Return Cohen's κ of two raters. Source: J. Cohen, Educational and Psychological Measurement 20 (1960)."""
    first, second = (rater.verdicts for rater in raters)
    table = np.zeros((len(KINDS), len(KINDS)))
    for pair in first.keys() & second.keys():
        places = [KINDS.index(each[pair].verdict) for each in (first, second)]
        if is_binary:
            places = [int(place != KINDS.index(RIGHT)) for place in places]
        table[places[0], places[1]] += 1
    table /= table.sum()
    by_chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return None if by_chance >= 1 else float((np.trace(table) - by_chance) / (1 - by_chance))
