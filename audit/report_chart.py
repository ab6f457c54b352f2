"""The picture of an audit's report: intervals one below the other, as an SVG file for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from pseudoris.audit.figures import AuditFigures, BoundedFigure
from pseudoris.audit.intervals import Interval
from pseudoris.store.reports.svg import element, svg_file

_WIDTH: Final = 720
_LEFT: Final = 270
_RIGHT: Final = 130
_ROW: Final = 26
_TOP: Final = 34
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1c2430}.grid{stroke:#d5dae1}.line{stroke:#1f5fbf;stroke-width:3}"
    ".wide{stroke:#1f5fbf;stroke-width:1.5;stroke-dasharray:3 3}.dot{fill:#1f5fbf}"
    ".title{font-weight:600}.end{text-anchor:end}"
    ".mid{text-anchor:middle}@media (prefers-color-scheme:dark){svg{background:#14181f}text{fill:#e6eaf0}"
    ".grid{stroke:#38414d}"
    ".line,.wide{stroke:#7fb0ff}.dot{fill:#7fb0ff}}"
)


@dataclass(frozen=True, slots=True)
class ChartRow:
    """A row: its name, its interval, and the wider one that undecided verdicts leave open, dashed."""

    name: str
    value: Interval
    wide: Interval | None = None
    is_heading: bool = False


def interval_chart(rows: Sequence[ChartRow], *, title: str, low: float = 0.0, high: float = 1.0) -> str:
    """Return an SVG file with a row per interval, from `low` on the left to `high` on the right."""
    height, wide = _TOP + _ROW * len(rows) + 30, _WIDTH - _LEFT - _RIGHT

    def place(value: float) -> str:
        return f"{_LEFT + wide * (min(max(value, low), high) - low) / (high - low):.1f}"

    def line(kind: str, value: Interval, y: int) -> Markup:
        return element("line", class_=kind, x1=place(value.low), x2=place(value.high), y1=y, y2=y)

    drawn = [element("style", Markup(_STYLE)), element("text", title, x=8, y=20, class_="title")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = f"{_LEFT + share * wide:.1f}"
        drawn.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP - 4, y2=height - 26))
        drawn.append(element("text", f"{round(low + share * (high - low), 3):g}", class_="mid", x=x, y=height - 8))
    for number, row in enumerate(rows):
        y, value = _TOP + _ROW * number + _ROW // 2, row.value
        name = row.name if len(row.name) < 42 else f"{row.name[:40]}…"
        kind, left = ("title", 8) if row.is_heading else ("end", _LEFT - 12)
        drawn.append(element("text", name, class_=kind, x=left, y=y + 4))
        if value.estimate is None:
            continue
        if row.wide is not None and row.wide != value:
            drawn.append(line("wide", row.wide, y))
        said = f"{value.estimate:.3f} [{value.low:.2f}, {value.high:.2f}]"
        drawn += [
            line("line", value, y),
            element("circle", class_="dot", cx=place(value.estimate), cy=y, r=5),
            element("text", said, x=_WIDTH - _RIGHT + 12, y=y + 4),
        ]
    return svg_file(_WIDTH, height, *drawn, role="img", aria_label=title)


def report_chart(figures: AuditFigures) -> str:
    """Return the figures that are shares as an SVG file; dashed is what undecided verdicts leave open."""

    def rows_of(found: Iterable[BoundedFigure]) -> list[ChartRow]:
        return [ChartRow(each.name, each.value, Interval(None, each.worst.low, each.best.high)) for each in found]

    rows = rows_of([figures.accuracy])
    if figures.corrected is not None:
        rows.append(ChartRow("corrected for raters' errors", figures.corrected.share))
    rows += rows_of(each for each in (figures.masks, figures.unkept, figures.with_missed) if each.num)
    for heading, parts in (("right, by stratum", figures.strata), ("verdicts on the kept", figures.kinds)):
        rows += [ChartRow(heading, Interval(None, 0.0, 1.0), is_heading=True), *rows_of(parts)]
    return interval_chart(rows, title=f"{figures.num_judged} of {figures.num_drawn} pairs judged; 95 % intervals")
