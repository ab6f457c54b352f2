"""The picture of a report: accuracy, masks, strata and kinds of verdict, with their intervals."""

from __future__ import annotations

from pseudoris.audit.figures import AuditFigures, BoundedFigure
from pseudoris.audit.interval_chart import ChartRow, interval_chart
from pseudoris.audit.intervals import Interval


def report_chart(figures: AuditFigures) -> str:
    """Return the figures that are shares as an SVG file; dashed is what undecided verdicts leave open."""
    rows = [_row(figures.accuracy)]
    if figures.corrected is not None:
        rows.append(ChartRow("corrected for raters' errors", figures.corrected.share))
    rows += [_row(each) for each in (figures.masks, figures.unkept, figures.with_missed) if each.num]
    rows += [_heading("right, by stratum"), *map(_row, figures.strata)]
    rows += [_heading("verdicts on the kept"), *map(_row, figures.kinds)]
    return interval_chart(rows, title=f"{figures.num_judged} of {figures.num_drawn} pairs judged; 95 % intervals")


def _heading(name: str) -> ChartRow:
    return ChartRow(name, Interval(None, 0.0, 1.0), is_heading=True)


def _row(figure: BoundedFigure) -> ChartRow:
    return ChartRow(figure.name, figure.value, Interval(None, figure.worst.low, figure.best.high))
