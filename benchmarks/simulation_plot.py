"""Plots the simulated shares over the size of a shard as SVG: a panel per number of GPUs, a line per assumed speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from pseudoris.store.reports.svg import element, svg_file

_PANEL: Final = (300, 230)
_MARGIN: Final = (52, 40)
_COLOURS: Final = ("#1b6ca8", "#c8553d", "#4a7c59", "#7b5ea7")
# Percent, on a logarithmic axis.
_TICKS: Final = (0.1, 0.3, 1, 3, 10, 30, 100)
_TARGET: Final = 2.0


def write_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the fused runs of the most images in `rows`: solid lines all losses, dashed the control plane."""
    most = max(row["images"] for row in rows)
    shown = [row for row in rows if row["images"] == most and row["placement"] == "fused"]
    gpus = sorted({row["gpus"] for row in shown})
    rates = sorted({row["images_per_s"] for row in shown})
    width = _MARGIN[0] + len(gpus) * (_PANEL[0] + _MARGIN[0])
    height = _PANEL[1] + 2 * _MARGIN[1] + 34
    parts = [element("rect", width=width, height=height, fill="white")]
    for index, number in enumerate(gpus):
        left = _MARGIN[0] + index * (_PANEL[0] + _MARGIN[0])
        panel = _Panel([row for row in shown if row["gpus"] == number], left=left, top=_MARGIN[1])
        parts += panel.axes(f"{number} GPUs, {most:,} images")
        for rate, colour in zip(rates, _COLOURS, strict=False):
            parts += panel.lines(rate, colour)
    parts += _legend(rates, top=_PANEL[1] + 2 * _MARGIN[1] + 18)
    path.write_text(svg_file(width, height, *parts, font_family="sans-serif", font_size=12), encoding="utf-8")


class _Panel:
    """One pair of axes."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, left: int, top: int) -> None:
        self._rows = sorted(rows, key=lambda row: row["shard_images"])
        self._sizes = sorted({row["shard_images"] for row in rows})
        self._left, self._top = left, top

    def axes(self, title: str) -> list[Markup]:
        right, bottom = self._left + _PANEL[0], self._top + _PANEL[1]
        parts = [element("text", title, x=self._left, y=self._top - 12, font_weight="bold")]
        for percent in _TICKS:
            y = self._y(percent)
            parts.append(element("line", x1=self._left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="#ddd"))
            parts.append(element("text", f"{percent:g} %", x=self._left - 6, y=f"{y + 4:.1f}", text_anchor="end"))
        target = f"{self._y(_TARGET):.1f}"
        parts.append(element("line", x1=self._left, x2=right, y1=target, y2=target, stroke="black"))
        parts += [
            element("text", str(size), x=f"{self._x(size):.1f}", y=bottom + 16, text_anchor="middle")
            for size in self._sizes
        ]
        label = {"x": (self._left + right) / 2, "y": bottom + 32, "text_anchor": "middle"}
        return [*parts, element("text", "images a shard", **label)]

    def lines(self, rate: float, colour: str) -> list[Markup]:
        of_rate = [row for row in self._rows if row["images_per_s"] == rate]
        parts = []
        for share, dashes in (("lost_share", None), ("control_share", "4 3")):
            points = " ".join(f"{self._x(row['shard_images']):.1f},{self._y(100 * row[share]):.1f}" for row in of_rate)
            style = {"fill": "none", "stroke": colour, "stroke_width": 1.8, "stroke_dasharray": dashes}
            parts.append(element("polyline", points=points, **style))
        return parts

    def _x(self, size: int) -> float:
        if len(self._sizes) == 1:
            return self._left + _PANEL[0] / 2
        return self._left + 12 + (_PANEL[0] - 24) * self._sizes.index(size) / (len(self._sizes) - 1)

    def _y(self, percent: float) -> float:
        low, high = math.log(_TICKS[0]), math.log(_TICKS[-1])
        share = (math.log(min(max(percent, _TICKS[0]), _TICKS[-1])) - low) / (high - low)
        return self._top + _PANEL[1] * (1 - share)


def _legend(rates: Sequence[float], *, top: int) -> list[Markup]:
    parts = []
    for index, (rate, colour) in enumerate(zip(rates, _COLOURS, strict=False)):
        x = _MARGIN[0] + 160 * index
        parts.append(element("line", x1=x, x2=x + 24, y1=top - 4, y2=top - 4, stroke=colour, stroke_width=2))
        parts.append(element("text", f"{rate:g} images/s a GPU", x=x + 30, y=top))
    text = "solid: all that is not work; dashed: the control plane; black: 2 %"
    return [*parts, element("text", text, x=_MARGIN[0] + 160 * len(rates), y=top)]
