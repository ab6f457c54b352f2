"""Joins all raters' answers with the draw, as arrays in the order of `pairs.parquet`. For `audit`, `cli`, experiments.

The verdicts may be applied to another run, such as a refilter of the drawn one: to the pairs that both runs have, with
the same image bytes, masks and text. Pairs without a verdict are missing at random, because the order is random.

Lines from an expression's confidence to its `weight` are fitted to them. With few verdicts a line stays near the one
that leaves the confidence as it is. More confidence never lowers a weight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from pseudoris.audit.audit_folder import CANNOT_SAY, RIGHT, VERDICTS, AuditFolder, RaterAnswers
from pseudoris.audit.draw_files import DRAWN, draw_kind, keeps_no_others, pair_id
from pseudoris.audit.intervals import LEAST_CHECKED, RaterChecks, RatioEstimate, ratio
from pseudoris.audit.population import OnShard
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.fitted import Floats, PairWeightConfig, WeightLine, log_odds, logistic
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, Flags, Ints
from pseudoris.store.tables.judged_expressions import stated_rule
from pseudoris.store.tables.open_run import CommittedShard, OpenRun

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
        mask: (R,) int64, a number for its mask; -1 for a group or an absence.
        kind: (R,) str, as of `draw_kind`.
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
    kind: npt.NDArray[np.str_]
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
        """(R,) float64: `right`, with `value` if no rater could say, or none judged."""
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
        """Return the share that is `right`, (R,) in [0, 1], of a `domain`, (R,) bool; a pair of NaN is outside it."""
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
        kind=np.array([*map(draw_kind, pairs["source"].to_pylist(), pairs["kind"].to_pylist())], np.str_),
        is_kept=np.array(pairs["is_kept"].to_pylist(), np.bool_),
        num_kept_of_mask=np.array(pairs["num_kept_of_mask"].to_pylist(), np.int64),
    )


def mask_outcomes(judged: JudgedPairs) -> tuple[Floats, Floats]:
    """Return the least and the most that is known of each row's mask: 1 if it has a right kept expression, (R,) each.

    They differ where a mask's kept expressions were not all judged, and none of the judged is right.
    """
    num = judged.mask.max(initial=0) + 1
    inside = judged.is_kept & (judged.mask >= 0)
    right = judged.right
    has_right, is_none, told = (np.zeros(num, np.int64) for _ in range(3))
    np.add.at(has_right, judged.mask[inside], right[inside] >= 0.5)
    np.add.at(told, judged.mask[inside], ~np.isnan(right[inside]))
    is_no_object = inside & (2 * judged.counts[:, _NO_OBJECT] > judged.counts.sum(axis=1) - judged.counts[:, _CANNOT])
    np.add.at(is_none, judged.mask[is_no_object], 1)
    place = np.maximum(judged.mask, 0)
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


@dataclass(frozen=True, slots=True)
class AppliedRun:
    """Another run that an audit speaks about, such as a refilter of the drawn one.

    Attributes:
        num_asked: Pairs of the audit.
        num_same: Those that the run has as well: same image bytes, masks and text. It keeps `num_kept` of these.
        has_same_pairs: Whether the run has as many images, masks and pairs as the drawn one, and all of the audit's:
            then the sample stands for all of its pairs.
        keeps_no_others: Whether it is known to keep nothing that the drawn run does not keep.
        num_masks_with_kept: Those of its masks that have a kept expression.
        kept: By id of the same pairs, whether it keeps the pair, and the number of kept pairs of its mask.
    """

    location: str
    num_asked: int
    num_same: int
    num_kept: int
    has_same_pairs: bool
    keeps_no_others: bool
    num_masks: int
    num_masks_with_kept: int
    kept: Mapping[str, tuple[bool, int]] = field(repr=False)

    def judged(self, judged: JudgedPairs) -> JudgedPairs:
        """Return the verdicts as this run sees them: its kept flags, and no weight for pairs that it does not have."""
        found = [self.kept.get(pair, (False, 0)) for pair in judged.ids]
        is_same = np.array([pair in self.kept for pair in judged.ids], np.bool_)
        return replace(
            judged,
            is_kept=np.array([is_kept for is_kept, _ in found], np.bool_),
            num_kept_of_mask=np.array([count for _, count in found], np.int64),
            counts=np.where(is_same[:, None], judged.counts, 0),
        )


def apply_to(run: OpenRun, audit: AuditFolder, on_shard: OnShard = lambda done, total: None) -> AppliedRun:
    """Return what a run keeps of an audit's pairs. Reads its tables once."""
    totals: Counter[str] = Counter()
    kept: dict[str, tuple[bool, int]] = {}
    known = dict(zip(audit.images["image_id"].to_pylist(), audit.images["sha256"].to_pylist(), strict=True))
    masks = audit.masks()
    for number, shard in enumerate(run.shards(), start=1):
        kept |= _kept_of_shard(shard, known, masks, totals)
        on_shard(number, run.header.num_shards)
    rows = audit.pairs["pair_id"].to_pylist()
    same = {pair: kept[pair] for pair in rows if pair in kept}
    if not same:
        why = "it shows other images, or has other masks"
        if any(each.name for each in run.header.runs):
            why = "its images have other ids than those of the runs that it combines, and audits hold for those"
        raise ConfigError(
            f"{run.location.root} has none of the {len(rows):,} pairs of the audit at {audit.path}: {why}. It was "
            f"drawn from the run {audit.draw.run.header_sha256[:12]}… at {audit.draw.run.location}"
        )
    before = audit.draw.population
    num_pairs = totals["pairs"] - (totals["absences"] if before.without_target else 0)
    has_same = (totals["images"], totals["masks"], num_pairs) == (before.images, before.masks, before.pairs)
    return AppliedRun(
        location=run.location.root,
        num_asked=len(rows),
        num_same=len(same),
        num_kept=sum(is_kept for is_kept, _ in same.values()),
        has_same_pairs=has_same and len(same) == len(rows),
        keeps_no_others=keeps_no_others(run.header, stated_rule(run.header), audit.draw.run),
        num_masks=totals["masks"],
        num_masks_with_kept=totals["masks_with_kept"],
        kept=same,
    )


def _kept_of_shard(
    shard: CommittedShard,
    known: Mapping[str, str],
    masks: Mapping[str, Mapping[str, Mapping[str, Any]]],
    totals: Counter[str],
) -> dict[str, tuple[bool, int]]:
    """Add a shard to `totals`; return its pairs of the same images, of which `known` has the digests, and masks."""
    found: dict[str, tuple[bool, int]] = {}
    columns = ("target_mask_ids", "text", "kept")
    for row, own, said in shard.joined(("sha256",), ("mask_id", "segmentation"), columns).rows():
        image, same_masks = row["image_id"], set()
        is_same = known.get(image) == row["sha256"]
        for each in own if is_same else ():
            mine = masks[image].get(each["mask_id"])
            if mine is not None and mine["counts"] == each["segmentation"]["counts"]:
                same_masks.add(each["mask_id"])
        flags: defaultdict[tuple[tuple[str, ...], str], bool] = defaultdict(bool)
        for each in said:
            flags[tuple(sorted(each["target_mask_ids"])), each["text"]] |= each["kept"]
        of_mask = Counter(targets[0] for (targets, _), is_kept in flags.items() if is_kept and len(targets) == 1)
        totals.update(images=1, masks=len(own), pairs=len(flags), masks_with_kept=len(of_mask))
        totals["absences"] += sum(not targets for targets, _ in flags)
        found |= {
            pair_id(image, targets, text): (is_kept, of_mask[targets[0]] if len(targets) == 1 else 0)
            for (targets, text), is_kept in flags.items()
            if is_same and same_masks.issuperset(targets)
        }
    return found


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
