"""Lines over a pair of axes as an SVG file: the figures of the docs, of benchmarks and of examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from pseudoris.store.reports.charts import element, round_step, svg_file

COLOURS: Final = ("#1b6ca8", "#c8553d", "#4a7c59", "#7b5ea7", "#b8860b", "#444444", "#d16ba5", "#5f9ea0")
_WIDTH, _HEIGHT = 560, 320
_LEFT, _TOP, _BOTTOM, _LEGEND_WIDTH = 62, 40, 52, 230
_CHART_WIDTH, _CHART_HEIGHT = _LEFT + _WIDTH + _LEGEND_WIDTH, _TOP + _HEIGHT + _BOTTOM
_TICKS: Final = 6
_DIGITS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """A line: points (x, y) or (x, y, low, high), the latter with a whisker; dashed for what is a reference."""

    title: str
    points: Sequence[tuple[float, ...]]
    is_dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; `labels` name places, else round numbers are shown."""

    title: str
    low: float
    high: float
    labels: Sequence[tuple[float, str]] = ()

    def ticks(self) -> Sequence[tuple[float, str]]:
        """Return where the axis is labelled, and how."""
        if self.labels:
            return self.labels
        step = round_step((self.high - self.low) / _TICKS, _DIGITS)
        first = math.ceil(self.low / step - 1e-9)
        places = [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [
            (place, f"{place:g}" if step >= 1 else f"{place:.{max(0, -math.floor(math.log10(step)))}f}")
            for place in places
        ]


def whisker(at: float, figure: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the point of a figure with its interval, as `as_json` has it."""
    return at, figure["value"], figure["low"], figure["high"]


def axis_of(title: str, values: Sequence[float], *, start: float | None = None) -> Axis:
    """Return an axis that holds all values with some room, from `start` where it is given."""
    low, high = min(values), max(values)
    room = 0.05 * ((high - low) or 1.0)
    return Axis(title, low - room if start is None else start, high + room)


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return the chart as an SVG text."""
    width, height = _CHART_WIDTH, _CHART_HEIGHT
    frame = _Frame(x, y)
    parts = [
        element("rect", width=width, height=height, fill="white"),
        element("text", title, x=_LEFT, y=22, font_size=14, font_weight="bold"),
        *frame.axes(),
    ]
    for number, line in enumerate(lines):
        parts += frame.line(line, COLOURS[number % len(COLOURS)])
        parts += _legend(line, COLOURS[number % len(COLOURS)], number)
    return svg_file(width, height, *parts, font_family="sans-serif", font_size=12)


def stack(charts: Sequence[str]) -> str:
    """Return charts of `line_chart` one below another, as one SVG text."""
    placed = [f'<svg y="{_CHART_HEIGHT * number}" {chart[len("<svg ") :]}' for number, chart in enumerate(charts)]
    return svg_file(_CHART_WIDTH, _CHART_HEIGHT * len(charts), *(Markup(each.rstrip()) for each in placed))


class _Frame:
    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y

    def axes(self) -> list[Markup]:
        right, bottom, middle = _LEFT + _WIDTH, _TOP + _HEIGHT, _TOP + _HEIGHT / 2
        parts = []
        for value, label in self._y.ticks():
            at = self._down(value)
            parts.append(element("line", x1=_LEFT, x2=right, y1=f"{at:.1f}", y2=f"{at:.1f}", stroke="#ddd"))
            parts.append(element("text", label, x=_LEFT - 7, y=f"{at + 4:.1f}", text_anchor="end"))
        for value, label in self._x.ticks():
            along = f"{self._along(value):.1f}"
            parts.append(element("line", x1=along, x2=along, y1=bottom, y2=bottom + 4, stroke="black"))
            parts.append(element("text", label, x=along, y=bottom + 18, text_anchor="middle"))
        turned = f"rotate(-90 16 {middle})"
        return [
            *parts,
            element("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, stroke="black"),
            element("text", self._x.title, x=(_LEFT + right) / 2, y=bottom + 40, text_anchor="middle"),
            element("text", self._y.title, x=16, y=middle, text_anchor="middle", transform=turned),
        ]

    def line(self, line: Line, colour: str) -> list[Markup]:
        places = [(f"{self._along(point[0]):.1f}", f"{self._down(point[1]):.1f}") for point in line.points]
        drawn = " ".join(f"{x},{y}" for x, y in places)
        style = {"fill": "none", "stroke": colour, "stroke_width": 1.8, "stroke_dasharray": _dashes(line)}
        parts = [element("polyline", points=drawn, **style)]
        for (x, y), point in zip(places, line.points, strict=True):
            parts.append(element("circle", cx=x, cy=y, r=2.8, fill=colour))
            if len(point) == 4:
                low, high = (f"{self._down(end):.1f}" for end in point[2:])
                parts.append(element("line", x1=x, x2=x, y1=low, y2=high, stroke=colour))
        return parts

    def _along(self, value: float) -> float:
        return _LEFT + _WIDTH * (value - self._x.low) / (self._x.high - self._x.low)

    def _down(self, value: float) -> float:
        return _TOP + _HEIGHT * (1 - (value - self._y.low) / (self._y.high - self._y.low))


def _dashes(line: Line) -> str | None:
    return "5 4" if line.is_dashed else None


def _legend(line: Line, colour: str, number: int) -> list[Markup]:
    x, y = _LEFT + _WIDTH + 14, _TOP + 10 + 19 * number
    style = {"stroke": colour, "stroke_width": 2, "stroke_dasharray": _dashes(line)}
    return [
        element("line", x1=x, x2=x + 22, y1=y, y2=y, **style),
        element("text", line.title, x=x + 28, y=y + 4),
    ]
