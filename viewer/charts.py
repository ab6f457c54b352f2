"""Charts as inline SVG: no library, no script, no style attribute, so that the page's policy holds.

Across, coordinates are per cent of the plot, and down they are pixels: a chart follows the width of its place while its
letters keep their size. Colours are classes of the stylesheet. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

from markupsafe import Markup

HEIGHT_PX: Final = 190
_GAP: Final = 0.12
_MAX_LABELS: Final = 9


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: `part` of `whole` in the strong colour, and what a pointer on it is told."""

    label: str
    whole: int
    part: int
    hint: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a line chart: points (x, y), x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Marker:
    """An upright line in a histogram, at a share of its width in [0, 1]."""

    share: float
    label: str


def histogram(
    bars: Sequence[Bar], *, title: str, labels: Sequence[tuple[float, str]], marker: Marker | None = None
) -> Markup:
    """Return a histogram of stacked bars.

    Args:
        bars: From left to right, equally wide.
        title: What a screen reader says of it.
        labels: Share of the width in [0, 1] and text, below the bars.
        marker: A line over the bars.
    """
    top = nice_ceiling(max((bar.whole for bar in bars), default=0))
    width = 100 / max(1, len(bars))
    inside = [_grid(top)]
    for place, bar in enumerate(bars):
        x, wide = width * (place + _GAP / 2), width * (1 - _GAP)
        inside.append(
            Markup(
                '<g>{}{}<rect class="hit" x="{:.3f}%" y="0" width="{:.3f}%" height="{}"><title>{}</title></rect></g>'
            ).format(
                _block("whole", x, wide, height=HEIGHT_PX * bar.whole / top),
                _block("part", x, wide, height=HEIGHT_PX * bar.part / top),
                *(width * place, width, HEIGHT_PX, bar.hint),
            )
        )
    if marker is not None:
        inside.append(_marker(marker))
    return _svg(title, [*inside, _labels(labels)])


def line_chart(lines: Sequence[Line], *, title: str, x_label: str) -> Markup:
    """Return lines over one pair of axes that begin at 0; each is named where it ends."""
    right = max((x for line in lines for x, _ in line.points), default=0.0) or 1.0
    top = nice_ceiling(max((y for line in lines for _, y in line.points), default=0))
    drawn = [_grid(top)]
    for number, line in enumerate(lines):
        path = "L".join(f"{100 * x / right:.3f} {HEIGHT_PX * (1 - y / top):.2f}" for x, y in line.points)
        drawn.append(
            Markup(
                '<svg viewBox="0 0 100 {}" preserveAspectRatio="none" width="100%" height="{}" overflow="visible"><path class="line line-{}" d="M{}"><title>{}</title></path></svg>'
            ).format(HEIGHT_PX, HEIGHT_PX, number, path, line.name)
        )
    steps = nice_ticks(right)
    labels = [(x / right, f"{x:,.0f}") for x in steps[:-1]] + [(1.0, x_label)]
    return _svg(title, [*drawn, _labels(labels)])


def share_bar(share: float) -> Markup:
    """Return a thin bar, filled to a share in [0, 1]."""
    filled = f"{100 * min(1.0, max(0.0, share)):.2f}%"
    return Markup(
        '<svg class="share" height="6" aria-hidden="true"><rect class="whole" width="100%" height="6" rx="3"/><rect class="part" width="{}" height="6" rx="3"/></svg>'
    ).format(filled)


def stacked_bar(parts: Sequence[tuple[str, float]], *, title: str) -> Markup:
    """Return one bar of named parts, as wide as their shares of the sum."""
    total = sum(value for _, value in parts) or 1.0
    blocks, at = [], 0.0
    for number, (name, value) in enumerate(parts):
        wide = 100 * value / total
        blocks.append(
            Markup(
                '<rect class="stage-{}" x="{:.3f}%" width="{:.3f}%" height="28"><title>{}: {:.0f} %</title></rect>'
            ).format(number % 6, at, wide, name, wide)
        )
        at += wide
    return Markup('<svg class="stack" height="28" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(blocks)
    )


def nice_ceiling(value: float) -> float:
    """Return the least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`; 1 for nothing."""
    if value <= 1:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)


def nice_ticks(right: float, most: int = 5) -> list[float]:
    """Return 0 and round steps up to `right`, at most `most` of them after the 0."""
    power = 10.0 ** floor(log10(right / most)) if right > 0 else 1.0
    step = next(size * power for size in (1, 2, 5, 10) if size * power * most >= right)
    return [number * step for number in range(floor(right / step + 1e-9) + 1)]


def thinned(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return every nth label, so that no more are left than stand beside each other."""
    step = -(-len(labels) // _MAX_LABELS)
    return list(labels[::step]) if step else []


def bar_labels(names: Sequence[str]) -> list[tuple[float, str]]:
    """Return labels below the middle of each of equally wide bars, thinned."""
    return thinned([((place + 0.5) / len(names), name) for place, name in enumerate(names)])


def edge_labels(edges: Sequence[float]) -> list[tuple[float, str]]:
    """Return labels at round numbers between the first and the last edge."""
    low, high = edges[0], edges[-1]
    steps = nice_ticks(high - low)
    step = steps[1] if len(steps) > 1 else high - low
    first = -(-low // step)
    ticks = [(first + number) * step for number in range(len(steps) + 1)]
    return [((tick - low) / (high - low), f"{tick:.3g}") for tick in ticks if low <= tick <= high + 1e-9]


def _svg(title: str, inside: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" height="{}" role="img" aria-label="{}">{}</svg>').format(
        HEIGHT_PX, title, Markup("").join(inside)
    )


def _block(kind: str, x: float, width: float, *, height: float) -> Markup:
    if height <= 0:
        return Markup("")
    # A bar of a single row among millions is still seen.
    tall = max(1.0, height)
    return Markup('<rect class="{}" x="{:.3f}%" y="{:.2f}" width="{:.3f}%" height="{:.2f}"/>').format(
        kind, x, HEIGHT_PX - tall, width, tall
    )


def _grid(top: float) -> Markup:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT_PX * (1 - share)
        # Over 1 the middle may be no whole number, and then says nothing.
        is_named = share != 0.5 or (top * share).is_integer()
        label = f"{top * share:,.0f}" if is_named else ""
        lines.append(
            Markup(
                '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/><text class="y" x="-8" y="{0:.1f}">{1}</text>'
            ).format(y, label)
        )
    return Markup("").join(lines)


def _labels(labels: Sequence[tuple[float, str]]) -> Markup:
    texts = [
        Markup('<text class="x{}" x="{:.3f}%" y="{}">{}</text>').format(
            " last" if share > 0.97 else "", 100 * share, HEIGHT_PX + 18, text
        )
        for share, text in labels
    ]
    return Markup("").join(texts)


def _marker(marker: Marker) -> Markup:
    side = " last" if marker.share > 0.8 else ""
    return Markup(
        '<line class="marker" x1="{0:.3f}%" x2="{0:.3f}%" y1="-6" y2="{1}"/><text class="marker{2}" x="{0:.3f}%" dx="{3}" y="2">{4}</text>'
    ).format(100 * marker.share, HEIGHT_PX, side, -6 if side else 6, marker.label)
