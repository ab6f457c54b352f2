"""Draws the semi-supervised curve beside the supervised one (figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from examples.pseudo_ris.steps import LEARNERS, SHARES
from examples.results_table import Measured
from experiments.quality.svg_chart import Axis, Line, axis_of, line_chart, stack


def draw_curve(path: Path, measured: Sequence[Measured]) -> None:
    """Write a chart for each split: mIoU over the share of human references, with our annotation and without."""
    shares = (0.0, *SHARES)
    labels = [(float(at), f"{share:.0%}") for at, share in enumerate(shares)]
    along = Axis("share of RefCOCO+'s human references", -0.3, len(SHARES) + 0.3, labels)
    splits: dict[str, dict[bool, list[tuple[float, ...]]]] = {}
    for each in measured:
        learner, miou = LEARNERS[each.row], each.figures["miou"]
        if miou["value"] is not None:
            point = (shares.index(learner.human), *(100 * miou[key] for key in ("value", "low", "high")))
            splits.setdefault(each.split, {False: [], True: []})[learner.annotation is None].append(point)
    charts = []
    for split, points in splits.items():
        lines = [Line("ours and human", sorted(points[False])), Line("human alone", sorted(points[True]), True)]
        mious = [miou for line in lines for point in line.points for miou in point[1:]]
        charts.append(line_chart(split, along, axis_of("mIoU, %", mious), lines))
    path.write_text(stack(charts), encoding="utf-8")
