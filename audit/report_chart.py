"""The picture of a report: intervals one below the other, as SVG without a script, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from pseudoris.audit.figures import AuditFigures, BoundedFigure
from pseudoris.audit.intervals import Interval
from pseudoris.schemas.printable import visible

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
    height = _TOP + _ROW * len(rows) + 30
    drawn = [_tick(low + share * (high - low), share, height) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    drawn += [_row(row, _TOP + _ROW * number + _ROW // 2, low, high) for number, row in enumerate(rows)]
    head = Markup('<text x="8" y="20" class="title">{}</text>').format(visible(title))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-label="{2}"><style>{3}</style>{4}{5}</svg>\n'
    ).format(_WIDTH, height, visible(title), Markup(_STYLE), head, Markup("").join(drawn))


def _place(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _tick(value: float, share: float, height: int) -> Markup:
    x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
    line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, _TOP - 4, height - 26)
    return line + Markup('<text class="mid" x="{:.1f}" y="{}">{:g}</text>').format(x, height - 8, round(value, 3))


def _row(row: ChartRow, y: float, low: float, high: float) -> Markup:
    name = escape(visible(row.name if len(row.name) < 42 else f"{row.name[:40]}…"))
    text = Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
        "title" if row.is_heading else "end", 8 if row.is_heading else _LEFT - 12, y + 4, name
    )
    if row.value.estimate is None:
        return text
    wide = "" if row.wide is None or row.wide == row.value else _line("wide", row.wide, y, low, high)
    said = f"{row.value.estimate:.3f} [{row.value.low:.2f}, {row.value.high:.2f}]"
    return (
        text
        + wide
        + _line("line", row.value, y, low, high)
        + Markup('<circle class="dot" cx="{:.1f}" cy="{}" r="5"/>').format(_place(row.value.estimate, low, high), y)
        + Markup('<text x="{}" y="{}">{}</text>').format(_WIDTH - _RIGHT + 12, y + 4, said)
    )


def _line(kind: str, value: Interval, y: float, low: float, high: float) -> Markup:
    ends = (_place(each, low, high) for each in (value.low, value.high))
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/>').format(kind, *ends, y=y)


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
