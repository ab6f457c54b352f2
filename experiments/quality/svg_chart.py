"""Lines over a pair of axes as SVG text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

COLOURS: Final = ("#1b6ca8", "#c8553d", "#4a7c59", "#7b5ea7", "#b8860b", "#444444", "#d16ba5", "#5f9ea0")
_WIDTH, _HEIGHT = 560, 320
_LEFT, _TOP, _BOTTOM, _LEGEND_WIDTH = 62, 40, 52, 230
_CHART_WIDTH, _CHART_HEIGHT = _LEFT + _WIDTH + _LEGEND_WIDTH, _TOP + _HEIGHT + _BOTTOM
_TICKS: Final = 6


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
        step = _round_step((self.high - self.low) / _TICKS)
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
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>',
        *frame.axes(),
    ]
    for number, line in enumerate(lines):
        parts += frame.line(line, COLOURS[number % len(COLOURS)])
        parts += _legend(line, COLOURS[number % len(COLOURS)], number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def stack(charts: Sequence[str]) -> str:
    """Return charts of `line_chart` one below another, as one SVG text."""
    placed = [f'<svg y="{_CHART_HEIGHT * number}" {chart[len("<svg ") :]}' for number, chart in enumerate(charts)]
    width, height = _CHART_WIDTH, _CHART_HEIGHT * len(charts)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    )
    return "\n".join([opening, *placed]) + "</svg>\n"


class _Frame:
    """A pair of axes on the page."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y

    def axes(self) -> list[str]:
        right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
        parts = []
        for value, label in self._y.ticks():
            at = self._down(value)
            parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for value, label in self._x.ticks():
            at = self._along(value)
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="black"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>')
        middle = (_LEFT + right) / 2
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="black"/>')
        parts.append(f'<text x="{middle}" y="{bottom + 40}" text-anchor="middle">{escape(self._x.title)}</text>')
        turned = f'transform="rotate(-90 16 {_TOP + _HEIGHT / 2})"'
        parts.append(
            f'<text x="16" y="{_TOP + _HEIGHT / 2}" text-anchor="middle" {turned}>{escape(self._y.title)}</text>'
        )
        return parts

    def line(self, line: Line, colour: str) -> list[str]:
        places = [(self._along(point[0]), self._down(point[1])) for point in line.points]
        dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>']
        for (x, y), point in zip(places, line.points, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>')
            if len(point) == 4:
                low, high = self._down(point[2]), self._down(point[3])
                parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        return parts

    def _along(self, value: float) -> float:
        return _LEFT + _WIDTH * (value - self._x.low) / (self._x.high - self._x.low)

    def _down(self, value: float) -> float:
        return _TOP + _HEIGHT * (1 - (value - self._y.low) / (self._y.high - self._y.low))


def _legend(line: Line, colour: str, number: int) -> list[str]:
    x, y = _LEFT + _WIDTH + 14, _TOP + 10 + 19 * number
    dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    return [
        f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dashes}/>',
        f'<text x="{x + 28}" y="{y + 4}">{escape(line.title)}</text>',
    ]


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 by a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * digit for digit in (1, 2, 2.5, 5, 10) if power * digit >= step * (1 - 1e-9))
