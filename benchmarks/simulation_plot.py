"""Plots the simulated shares over the size of a shard as SVG: a panel per number of GPUs, a line per assumed speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, number in enumerate(gpus):
        left = _MARGIN[0] + index * (_PANEL[0] + _MARGIN[0])
        panel = _Panel([row for row in shown if row["gpus"] == number], left=left, top=_MARGIN[1])
        parts += panel.axes(f"{number} GPUs, {most:,} images")
        for rate, colour in zip(rates, _COLOURS, strict=False):
            parts += panel.lines(rate, colour)
    parts += _legend(rates, top=_PANEL[1] + 2 * _MARGIN[1] + 18)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


class _Panel:
    """One pair of axes."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, left: int, top: int) -> None:
        self._rows = sorted(rows, key=lambda row: row["shard_images"])
        self._sizes = sorted({row["shard_images"] for row in rows})
        self._left, self._top = left, top

    def axes(self, title: str) -> list[str]:
        right, bottom = self._left + _PANEL[0], self._top + _PANEL[1]
        parts = [f'<text x="{self._left}" y="{self._top - 12}" font-weight="bold">{title}</text>']
        for percent in _TICKS:
            y = self._y(percent)
            parts.append(f'<line x1="{self._left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{self._left - 6}" y="{y + 4:.1f}" text-anchor="end">{percent:g} %</text>')
        y = self._y(_TARGET)
        parts.append(f'<line x1="{self._left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="black"/>')
        parts += [
            f'<text x="{self._x(size):.1f}" y="{bottom + 16}" text-anchor="middle">{size}</text>'
            for size in self._sizes
        ]
        parts.append(
            f'<text x="{(self._left + right) / 2}" y="{bottom + 32}" text-anchor="middle">images a shard</text>'
        )
        return parts

    def lines(self, rate: float, colour: str) -> list[str]:
        of_rate = [row for row in self._rows if row["images_per_s"] == rate]
        parts = []
        for share, dashes in (("lost_share", ""), ("control_share", ' stroke-dasharray="4 3"')):
            points = " ".join(f"{self._x(row['shard_images']):.1f},{self._y(100 * row[share]):.1f}" for row in of_rate)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>')
        return parts

    def _x(self, size: int) -> float:
        if len(self._sizes) == 1:
            return self._left + _PANEL[0] / 2
        return self._left + 12 + (_PANEL[0] - 24) * self._sizes.index(size) / (len(self._sizes) - 1)

    def _y(self, percent: float) -> float:
        low, high = math.log(_TICKS[0]), math.log(_TICKS[-1])
        share = (math.log(min(max(percent, _TICKS[0]), _TICKS[-1])) - low) / (high - low)
        return self._top + _PANEL[1] * (1 - share)


def _legend(rates: Sequence[float], *, top: int) -> list[str]:
    parts = []
    for index, (rate, colour) in enumerate(zip(rates, _COLOURS, strict=False)):
        x = _MARGIN[0] + 160 * index
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="{top - 4}" y2="{top - 4}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 30}" y="{top}">{rate:g} images/s a GPU</text>')
    x = _MARGIN[0] + 160 * len(rates)
    text = "solid: all that is not work; dashed: the control plane; black: 2 %"
    return [*parts, f'<text x="{x}" y="{top}">{text}</text>']
