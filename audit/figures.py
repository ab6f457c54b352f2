"""Computes an audit's figures with intervals, and their picture. Called by `cli` and examples.

A figure is about the whole run: each judged pair stands for the pairs that it was drawn from. Undecided verdicts are
left out, and the bounds `worst` and `best` say how far they could move the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from pseudoris.audit.audit_folder import AuditFolder, RaterAnswers
from pseudoris.audit.draw_files import DrawRecord, num_unseen, undrawn_strata
from pseudoris.audit.intervals import (
    CorrectedShare,
    RaterChecks,
    RatioEstimate,
    corrected_share,
    error_interval,
    exact_share,
    mean_interval,
    ratio,
    share_interval,
)
from pseudoris.audit.judged_pairs import KINDS, AppliedRun, JudgedPairs, join_answers, mask_outcomes, rater_checks
from pseudoris.primitives.untrusted import without_nan
from pseudoris.schemas.estimate import Estimate
from pseudoris.schemas.keep_rule import Flags
from pseudoris.store.reports.charts import IntervalRow, interval_chart

# `expected_precision` gives the intervals for these shares of right pairs, and these means of missed objects.
_ACCURACIES: Final = (0.75, 0.9, 0.97)
_MEANS: Final = (0.5, 2.0)
# JSON calls a figure's estimate its `value`, and the figure in it `estimate`: scripts read these names.
_JSON_NAMES: Final = {"estimate": "value", "value": "estimate"}


@dataclass(frozen=True, slots=True)
class BoundedFigure:
    """A figure from `num` verdicts, without the undecided; `worst` and `best` if all of these were wrong, or right.

    Undecided are verdicts `cannot_say`, and masks whose kept expressions were not all judged.
    """

    name: str
    num: int
    estimate: Estimate
    worst: Estimate
    best: Estimate
    num_undecided: int = 0


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """All figures of an audit.

    Attributes:
        num_drawn: Pairs drawn, without follow-ups; `num_judged` of them have a verdict.
        num_verdicts: Verdicts that count, follow-ups included; `raters` has them by rater.
        accuracy: Share of the kept pairs that are right; `corrected` for raters' errors, None if too few were checked.
        one_mask: Accuracy of the kept pairs of one mask; None if all are. Easy absences would hide its errors.
        masks: Share of all masks that have a right kept expression.
        unkept: Share of right pairs among those that are not kept.
        missed: Missed objects per image; `with_missed` is the share of images with one.
        by_kind: Accuracy of each kind: `drawn`, or as composed.
        kinds: Share of each verdict among the kept pairs.
        error: The raters' error rate; None if nothing was judged twice.
        unreached: Strata without a verdict yet. The figures leave them out, and `undrawn`, those without a drawn pair.
        num_unseen: Pairs of `undrawn` that the run keeps, or may keep. If there are any, its accuracy is not known.
        applied: Set if the audit is applied to another run than the drawn one.
    """

    num_drawn: int
    num_judged: int
    num_verdicts: int
    raters: dict[str, int]
    accuracy: BoundedFigure
    corrected: CorrectedShare | None
    one_mask: BoundedFigure | None
    masks: BoundedFigure
    unkept: BoundedFigure
    missed: BoundedFigure
    with_missed: BoundedFigure
    strata: tuple[BoundedFigure, ...]
    by_kind: tuple[BoundedFigure, ...]
    kinds: tuple[BoundedFigure, ...]
    checks: RaterChecks
    error: Estimate | None
    unreached: tuple[str, ...]
    undrawn: tuple[str, ...]
    num_unseen: int
    applied: AppliedRun | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the figures as values that JSON has; no number is infinite."""
        tree: dict[str, Any] = without_nan(
            asdict(self, dict_factory=lambda fields: {_JSON_NAMES.get(name, name): value for name, value in fields})
        )
        if tree["applied"] is not None:
            del tree["applied"]["kept"]
        return tree


def audit_figures(
    audit: AuditFolder, answers: Sequence[RaterAnswers], applied: AppliedRun | None = None
) -> AuditFigures:
    """Return all figures of an audit, about the drawn run or about what `applied` keeps of the same pairs."""
    judged = join_answers(audit, answers)
    population = audit.draw.population
    masks, masks_with_kept = population.masks, population.masks_with_kept
    if applied is not None:
        judged = applied.judged(judged)
        masks, masks_with_kept = applied.num_masks, applied.num_masks_with_kept
    checks, total = rater_checks(judged, answers), judged.counts.sum(axis=1)
    num_kept, kinds = int((judged.is_kept & (judged.weights > 0)).sum()), []
    for number, kind in enumerate(KINDS):
        shares = np.where(total > 0, judged.counts[:, number] / np.maximum(total, 1), np.nan)
        value = share_interval(judged.share_right(judged.is_kept, shares))
        kinds.append(BoundedFigure(kind, num_kept, value, value, value))
    is_one = judged.is_kept & (judged.mask >= 0)
    return AuditFigures(
        num_drawn=int(judged.is_drawn.sum()),
        num_judged=int((judged.is_drawn & judged.is_judged).sum()),
        num_verdicts=int(total.sum()),
        raters={rater.rater: len(rater.verdicts) for rater in answers},
        accuracy=_accuracy("accuracy of the kept", judged, judged.is_kept),
        corrected=corrected_share(judged.share_right(judged.is_kept, judged.right), checks),
        one_mask=_accuracy("accuracy of those of one mask", judged, is_one)
        if (is_one != judged.is_kept).any()
        else None,
        masks=_masks(judged, masks_with_kept / max(masks, 1)),
        unkept=_accuracy("right pairs that are not kept", judged, ~judged.is_kept),
        missed=_missed(audit, answers, "missed objects an image", lambda clicks: clicks),
        with_missed=_missed(audit, answers, "images with a missed object", lambda clicks: float(clicks > 0)),
        strata=tuple(
            _accuracy(stratum.name, judged, judged.stratum == stratum.number) for stratum in audit.draw.strata
        ),
        by_kind=tuple(
            _accuracy(kind, judged, judged.is_kept & (judged.kind == kind))
            for kind in sorted(set(judged.kind[judged.is_kept & judged.is_drawn].tolist()))
        ),
        kinds=tuple(kinds),
        checks=checks,
        error=error_interval(checks) if checks.num_twice else None,
        unreached=tuple(
            stratum.name
            for stratum in audit.draw.strata
            if stratum.num_drawn and not (judged.is_judged & (judged.stratum == stratum.number)).any()
        ),
        undrawn=tuple(stratum.name for stratum in undrawn_strata(audit.draw)),
        num_unseen=num_unseen(audit.draw, keeps_no_others=applied is None or applied.keeps_no_others),
        applied=applied,
    )


def _accuracy(name: str, judged: JudgedPairs, domain: Flags) -> BoundedFigure:
    value, worst, best = (
        share_interval(judged.share_right(domain, right))
        for right in (judged.right, judged.bounded(0.0), judged.bounded(1.0))
    )
    inside = domain & (judged.weights > 0)
    undecided = int((inside & np.isnan(judged.right)).sum())
    return BoundedFigure(name, int(inside.sum()) - undecided, value, worst, best, undecided)


def _masks(judged: JudgedPairs, share_with_kept: float) -> BoundedFigure:
    """Return the share of masks with a right kept expression; a kept pair has its mask's weight over its kept pairs."""
    # Source: P. Lavallée, "Indirect Sampling" (2007), the generalised weight share method. Masks without a kept
    # expression are counted in the run: they have no right one.
    inside = judged.is_kept & (judged.num_kept_of_mask > 0) & (judged.weights > 0)
    under = np.where(inside, 1 / np.maximum(judged.num_kept_of_mask, 1), 0.0)
    least, most = mask_outcomes(judged)
    shares = (share_interval(judged.ratio(under * right, under)) for right in (least, (least + most) / 2, most))
    worst, middle, best = (each.each(lambda share: share_with_kept * share) for each in shares)
    undecided = int((inside & (least < most)).sum())
    name = "masks with a right expression"
    # If masks are undecided, the interval goes from `worst` to `best`. Without such masks the figure would be too good.
    value = middle if not undecided else Estimate(middle.value, worst.low, best.high)
    return BoundedFigure(name, int(inside.sum()), value, worst, best, undecided)


def _missed(
    audit: AuditFolder, answers: Sequence[RaterAnswers], name: str, of: Callable[[int], float]
) -> BoundedFigure:
    asked = audit.images.filter(pc.field("is_asked_missed"))
    ids, strata = asked["image_id"].to_pylist(), np.array(asked["stratum"].to_pylist(), np.int64)
    weights = 1 / np.array(asked["inclusion"].to_pylist(), np.float64)
    values = np.full(len(ids), np.nan)
    for row, image in enumerate(ids):
        if said := [of(len(rater.missed[image].clicks)) for rater in answers if image in rater.missed]:
            values[row] = np.mean(said)
    told = ~np.isnan(values)
    for stratum in np.unique(strata):
        inside = strata == stratum
        weights[inside] *= inside.sum() / max((inside & told).sum(), 1)
    rows = np.flatnonzero(told)
    found = ratio(values[rows], np.ones(len(rows)), weights=weights[rows], strata=strata[rows], units=rows)
    value = share_interval(found) if name.startswith("images") else mean_interval(found)
    return BoundedFigure(name, len(rows), value, value, value)


def expected_precision(record: DrawRecord) -> Iterator[tuple[str, ...]]:
    """Yield the intervals that the audit will give if all verdicts are given, before the first one.

    A row has the question, an assumed value, its interval, half its width, and the verdicts that it comes from. The
    intervals are those of simple random samples of as many verdicts, of the kept of Kish's number, because strata may
    be drawn unequally: else strata only make them narrower.
    """

    def row(question: str, assumed: str, low: float, high: float, basis: str) -> tuple[str, ...]:
        return question, assumed, f"{low:.2f} to {high:.2f}", f"± {(high - low) / 2:.3f}", basis

    def share(question: str, value: float, size: float, basis: str, scale: float = 1.0) -> tuple[str, ...]:
        low, high = exact_share(value * size, size)
        return row(question, f"{scale * value:.2f}", scale * low, scale * high, basis)

    of_kept = [stratum for stratum in record.strata if stratum.is_kept and stratum.num_drawn]
    kept, units = (sum(getattr(each, name) for each in of_kept) for name in ("num_drawn", "num_units"))
    equal = units**2 / max(sum(each.num_units**2 / each.num_drawn for each in of_kept), 1)
    unkept = sum(stratum.num_drawn for stratum in record.strata if not stratum.is_kept)
    images = sum(stratum.num_drawn for stratum in record.image_strata)
    has_kept = record.population.masks_with_kept / max(record.population.masks, 1)
    for accuracy in _ACCURACIES if kept else ():
        yield share("accuracy of the kept", accuracy, equal, f"{kept} kept pairs")
    if kept and has_kept:
        # There are at most this many masks, because a mask may have several kept pairs.
        masks = min(kept, record.population.masks_with_kept)
        size = masks * equal / kept
        yield share("masks with a right expression", 0.9, size, f"{masks} masks of kept pairs", has_kept)
    if unkept:
        yield share("right pairs that are not kept", 0.5, unkept, f"{unkept} pairs not kept")
    for mean in _MEANS if images else ():
        found = mean_interval(RatioEstimate(mean, mean / images, images, images, 1 / images, max(images - 1, 1)))
        yield row("missed objects an image", f"{mean:g}", found.low, found.high, f"{images} images")


def report_chart(figures: AuditFigures) -> str:
    """Return the figures that are shares as an SVG file; dashed lines show what undecided verdicts leave open."""

    def rows_of(found: Iterable[BoundedFigure]) -> list[IntervalRow]:
        return [IntervalRow(each.name, each.estimate, (each.worst.low, each.best.high)) for each in found]

    rows = rows_of([figures.accuracy])
    if figures.corrected is not None:
        rows.append(IntervalRow("corrected for raters' errors", figures.corrected.share))
    rows += rows_of([figures.one_mask] if figures.one_mask else [])
    rows += rows_of(each for each in (figures.masks, figures.unkept, figures.with_missed) if each.num)
    parts_of = {"right, by kind": figures.by_kind, "right, by stratum": figures.strata}
    for heading, parts in {**parts_of, "verdicts on the kept": figures.kinds}.items():
        rows += [IntervalRow(heading), *rows_of(parts)]
    return interval_chart(rows, title=f"{figures.num_judged} of {figures.num_drawn} pairs judged; 95 % intervals")
