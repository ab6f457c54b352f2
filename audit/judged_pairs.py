"""All raters' answers, joined with the draw, as arrays: one entry for each row of `pairs.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import DRAWN
from pseudoris.audit.intervals import RaterChecks, RatioEstimate, ratio
from pseudoris.audit.population import Ints
from pseudoris.audit.verdicts import CANNOT_SAY, RIGHT, VERDICTS, RaterAnswers
from pseudoris.schemas.keep_rule import Flags, Floats

KINDS: Final = tuple(VERDICTS)
_CANNOT: Final = KINDS.index(CANNOT_SAY)
_NO_OBJECT: Final = KINDS.index("not_an_object")


@dataclass(frozen=True, eq=False)
class JudgedPairs:
    """R rows, in the order of `pairs.parquet`.

    Attributes:
        ids: The pairs.
        counts: (R, 5) int64, how many raters gave each verdict of `KINDS`.
        is_drawn: (R,) bool; the others are follow-ups.
        stratum: (R,) int64, -1 unless drawn.
        inclusion: (R,) float64, NaN unless drawn.
        image: (R,) int64, a number for its image.
        mask: (R,) int64, a number for its mask; -1 for a group.
        is_kept: (R,) bool, by the run, or by the rule that the audit is applied to.
        num_kept_of_mask: (R,) int64, by the same.
    """

    ids: tuple[str, ...]
    counts: Ints
    is_drawn: Flags
    stratum: Ints
    inclusion: Floats
    image: Ints
    mask: Ints
    is_kept: Flags
    num_kept_of_mask: Ints

    @property
    def is_judged(self) -> Flags:
        """(R,) bool: whether anyone gave a verdict, be it `cannot_say`."""
        return np.asarray(self.counts.sum(axis=1) > 0)

    @cached_property
    def right(self) -> Floats:
        """(R,) float64: share of its raters that call it right, of those that could say; NaN if none could."""
        said = self.counts.sum(axis=1) - self.counts[:, _CANNOT]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.counts[:, KINDS.index(RIGHT)] / said)

    def bounded(self, value: float) -> Floats:
        """(R,) float64: `right`, with `value` where no rater could say, or none judged."""
        return np.where(np.isnan(self.right), value, self.right)

    @cached_property
    def weights(self) -> Floats:
        """(R,) float64: how many pairs of the run a judged one stands for; 0 for rows that were not drawn or judged.

        Pairs are asked in a random order, so those that nobody has reached are missing at random: the others of their
        stratum stand for them.
        """
        used = self.is_drawn & self.is_judged
        weights = np.where(used, 1 / np.where(self.is_drawn, self.inclusion, 1.0), 0.0)
        for stratum in np.unique(self.stratum[self.is_drawn]):
            inside = self.stratum == stratum
            if judged := int((inside & used).sum()):
                weights[inside] *= int((inside & self.is_drawn).sum()) / judged
        return weights

    def share_right(self, domain: Flags, right: Floats) -> RatioEstimate:
        """Return the share of right pairs in a domain, over images in strata; a pair whose `right` is NaN is outside.

        Args:
            domain: (R,) bool.
            right: (R,) float64 in [0, 1].
        """
        inside = domain & ~np.isnan(right) & (self.weights > 0)
        return self.ratio(np.where(inside, np.nan_to_num(right), 0.0), inside.astype(np.float64))

    def ratio(self, over: Floats, under: Floats) -> RatioEstimate:
        """Return the weighted sum of `over`, (R,), over that of `under`, (R,), of the judged pairs."""
        weights = self.weights
        rows = np.flatnonzero(weights > 0)
        return ratio(over[rows], under[rows], weights=weights[rows], strata=self.stratum[rows], units=self.image[rows])


def join_answers(audit: AuditFolder, answers: Sequence[RaterAnswers]) -> JudgedPairs:
    """Return what the raters say of each pair of an audit."""
    pairs = audit.pairs
    ids = tuple(pairs["pair_id"].to_pylist())
    masks = [tuple(each) for each in pairs["mask_ids"].to_pylist()]
    place = {pair: number for number, pair in enumerate(ids)}
    counts = np.zeros((len(ids), len(KINDS)), np.int64)
    for pair, line in (each for rater in answers for each in rater.verdicts.items()):
        if pair in place:
            counts[place[pair], KINDS.index(line.verdict)] += 1
    return JudgedPairs(
        ids=ids,
        counts=counts,
        is_drawn=np.array([role == DRAWN for role in pairs["role"].to_pylist()], np.bool_),
        stratum=np.array(pairs["stratum"].fill_null(-1).to_pylist(), np.int64),
        inclusion=np.array(pairs["inclusion"].to_pylist(), np.float64),
        image=_numbers(pairs["image_id"].to_pylist()),
        mask=np.where([len(each) == 1 for each in masks], _numbers(["+".join(each) for each in masks]), -1),
        is_kept=np.array(pairs["is_kept"].to_pylist(), np.bool_),
        num_kept_of_mask=np.array(pairs["num_kept_of_mask"].to_pylist(), np.int64),
    )


def mask_outcomes(judged: JudgedPairs) -> tuple[Floats, Floats]:
    """Return the least and the most that is known of each row's mask: 1 if it has a right kept expression, (R,) each.

    They differ where a mask's kept expressions were not all judged, and none of the judged is right.
    """
    num = judged.mask.max(initial=-1) + 1
    inside = judged.is_kept & (judged.mask >= 0)
    right = judged.right
    has_right, is_none, told = (np.zeros(num, np.int64) for _ in range(3))
    np.add.at(has_right, judged.mask[inside], right[inside] >= 0.5)
    np.add.at(told, judged.mask[inside], ~np.isnan(right[inside]))
    is_no_object = inside & (2 * judged.counts[:, _NO_OBJECT] > judged.counts.sum(axis=1) - judged.counts[:, _CANNOT])
    np.add.at(is_none, judged.mask[is_no_object], 1)
    place = np.maximum(judged.mask, 0)
    if not num:
        return np.zeros(len(judged.ids)), np.ones(len(judged.ids))
    known_right = has_right[place] > 0
    known_wrong = ~known_right & ((is_none[place] > 0) | (told[place] >= judged.num_kept_of_mask))
    return known_right.astype(np.float64), (~known_wrong).astype(np.float64)


def rater_checks(judged: JudgedPairs, answers: Sequence[RaterAnswers]) -> RaterChecks:
    """Return what was judged twice: on each pair, the first two raters who could say."""
    num_twice = num_differ = 0
    for pair in judged.ids:
        said = [rater.verdicts[pair].verdict for rater in answers if pair in rater.verdicts]
        said = [verdict for verdict in said if verdict != CANNOT_SAY]
        if len(said) > 1:
            num_twice += 1
            num_differ += (said[0] == RIGHT) != (said[1] == RIGHT)
    return RaterChecks(num_twice, num_differ)


def _numbers(values: Sequence[str]) -> Ints:
    """Return a number for each value, from 0, equal for equal ones."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
