"""Charts as inline SVG: no library, no script, no style attribute, so that the page's policy holds.

Across, coordinates are per cent of the plot, and down they are pixels: a chart fills the width of its place, and its
letters keep their size. Colours are classes of the stylesheet. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

from markupsafe import Markup

from pseudoris.store.reports.svg import element, round_step

HEIGHT_PX: Final = 190
NUM_STAGE_COLOURS: Final = 6
_STACK_HEIGHT_PX: Final = 28
_SHARE_HEIGHT_PX: Final = 6
# Share of a bar's place.
_GAP: Final = 0.12
_MAX_LABELS: Final = 9
_LABEL_DEPTH_PX: Final = 18


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram: `part` of `whole` in the strong colour, and its tooltip."""

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


# Share of the width in [0, 1], and the label below it.
Label = tuple[float, str]


def histogram(bars: Sequence[Bar], *, title: str, labels: Iterable[Label] = (), marker: Marker | None = None) -> Markup:
    """Return a histogram of stacked bars, equally wide, from left to right; `title` is for screen readers."""
    top = nice_ceiling(max((bar.whole for bar in bars), default=0))
    width = 100 / max(1, len(bars))
    drawn = [_bar(bar, width * place, width=width, top=top) for place, bar in enumerate(bars)]
    return _chart(title, _grid(top), *drawn, "" if marker is None else _marker(marker), _labels(labels))


def line_chart(lines: Sequence[Line], *, title: str, x_label: str) -> Markup:
    """Return lines over one pair of axes that begin at 0; `x_label` is written at the end of the lower one."""
    right = max((x for line in lines for x, _ in line.points), default=0.0) or 1.0
    top = nice_ceiling(max((y for line in lines for _, y in line.points), default=0))
    drawn = []
    for number, line in enumerate(lines):
        data = "L".join(f"{100 * x / right:.3f} {HEIGHT_PX * (1 - y / top):.2f}" for x, y in line.points)
        drawn.append(element("path", element("title", line.name), class_=f"line line-{number}", d=f"M{data}"))
    # Stretched, so that its coordinates across are per cent as well.
    plot = element(
        "svg",
        *drawn,
        viewBox=f"0 0 100 {HEIGHT_PX}",
        preserveAspectRatio="none",
        width="100%",
        height=HEIGHT_PX,
        overflow="visible",
    )
    ticks = [(x / right, f"{x:,.0f}") for x in nice_ticks(right) if x < 0.85 * right]
    return _chart(title, _grid(top), plot, _labels([*ticks, (1.0, x_label)]))


def share_bar(share: float) -> Markup:
    """Return a thin bar, filled to a share in [0, 1]."""
    shape = {"height": _SHARE_HEIGHT_PX, "rx": _SHARE_HEIGHT_PX / 2}
    filled = f"{100 * min(1.0, max(0.0, share)):.2f}%"
    whole, part = (
        element("rect", class_="whole", width="100%", **shape),
        element("rect", class_="part", width=filled, **shape),
    )
    return element("svg", whole, part, class_="share", height=_SHARE_HEIGHT_PX, aria_hidden="true")


def stacked_bar(parts: Sequence[tuple[str, float]], *, title: str) -> Markup:
    """Return one bar of named parts, each as wide as its share of the sum."""
    total = sum(value for _, value in parts) or 1.0
    blocks, at = [], 0.0
    for number, (name, value) in enumerate(parts):
        wide = 100 * value / total
        hint = element("title", f"{name}: {wide:.0f} %")
        place = {"x": f"{at:.3f}%", "width": f"{wide:.3f}%", "height": _STACK_HEIGHT_PX}
        blocks.append(element("rect", hint, class_=f"stage-{number % NUM_STAGE_COLOURS}", **place))
        at += wide
    return element("svg", *blocks, class_="stack", height=_STACK_HEIGHT_PX, role="img", aria_label=title)


def nice_ceiling(value: float) -> float:
    """Return the least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`; 1 for less than that."""
    if value <= 1:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)


def nice_ticks(right: float, most: int = 5) -> list[float]:
    """Return 0 and round steps up to `right` > 0, at most `most` of them after the 0."""
    step = round_step(right / most)
    return [number * step for number in range(floor(right / step + 1e-9) + 1)]


def bar_labels(names: Sequence[str]) -> list[Label]:
    """Return labels below the middle of each of equally wide bars; of many every nth."""
    step = max(1, -(-len(names) // _MAX_LABELS))
    return [((place + 0.5) / len(names), names[place]) for place in range(0, len(names), step)]


def edge_labels(low: float, high: float) -> list[Label]:
    """Return labels at round numbers between `low` and `high` > `low`."""
    step = nice_ticks(high - low)[1]
    first = -(-low // step)
    ticks = [(first + number) * step for number in range(floor((high - low) / step) + 2)]
    return [((tick - low) / (high - low), f"{tick:.3g}") for tick in ticks if low <= tick <= high]


def _chart(title: str, *inside: Markup | str) -> Markup:
    return element("svg", *inside, class_="chart", height=HEIGHT_PX, role="img", aria_label=title)


def _bar(bar: Bar, x: float, *, width: float, top: float) -> Markup:
    inset = {"x": f"{x + width * _GAP / 2:.3f}%", "width": f"{width * (1 - _GAP):.3f}%"}
    blocks = []
    for kind, count in (("whole", bar.whole), ("part", bar.part)):
        if count:
            # A bar of a single row among millions is still seen.
            tall = max(1.0, HEIGHT_PX * count / top)
            blocks.append(element("rect", class_=kind, y=f"{HEIGHT_PX - tall:.2f}", height=f"{tall:.2f}", **inset))
    # What a pointer meets is the bar's whole place, however low the bar.
    place = {"x": f"{x:.3f}%", "width": f"{width:.3f}%", "height": HEIGHT_PX}
    return element("g", *blocks, element("rect", element("title", bar.hint), class_="hit", **place))


def _grid(top: float) -> Markup:
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = f"{HEIGHT_PX * (1 - share):.1f}"
        drawn.append(element("line", class_="grid", x1=0, x2="100%", y1=y, y2=y))
        # What is counted has no halves.
        if (top * share).is_integer():
            drawn.append(element("text", f"{top * share:,.0f}", class_="y", x=-8, y=y))
    return Markup("").join(drawn)


def _labels(labels: Iterable[Label]) -> Markup:
    y = HEIGHT_PX + _LABEL_DEPTH_PX
    return Markup("").join(
        element("text", text, class_="last" if share > 0.97 else "below", x=f"{100 * share:.3f}%", y=y)
        for share, text in labels
    )


def _marker(marker: Marker) -> Markup:
    x, is_right = f"{100 * marker.share:.3f}%", marker.share > 0.8
    line = element("line", class_="marker", x1=x, x2=x, y1=-6, y2=HEIGHT_PX)
    return line + element(
        "text", marker.label, class_="marker last" if is_right else "marker", x=x, dx=-6 if is_right else 6, y=2
    )
