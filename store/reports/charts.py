"""Draws every chart as SVG, for pages of `viewer` and `training` and for files of `audit` and experiments.

All texts are escaped. Charts of a page are inline SVG without a style attribute, so that the page's policy holds:
colours are classes of its stylesheet. Their horizontal coordinates are per cent, vertical ones are pixels: a chart
fills the width of its place, and its letters keep their size. A file stands on its own, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from pseudoris.primitives.untrusted import visible
from pseudoris.schemas.estimate import Estimate

_DIGITS: Final = (1.0, 2.0, 5.0, 10.0)
_MAX_TICKS: Final = 5
# Charts of a page have these sizes in pixels.
_HEIGHT: Final = 190
_LABEL_DEPTH: Final = 18
_STACK_HEIGHT: Final = 28
_SHARE_HEIGHT: Final = 6
_NUM_STAGE_COLOURS: Final = 6
# The gap between two bars is this share of the distance from one bar to the next.
_GAP: Final = 0.12
# The parts of a file of intervals have these sizes in pixels.
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
# A bar is its count, the part of the count that has the strong colour, and its tooltip.
Bar = tuple[int, int, str]
# A label is a position, as a share of the width in [0, 1], and the text at that position.
Label = tuple[float, str]


def element(name: str, /, *inside: Markup | str, **attributes: object) -> Markup:
    """Return an element. In attribute names `_` becomes `-`, a final `_` is dropped; an attribute of None is left out.

    Texts and values are escaped, control characters in them spelled; `Markup` inside stays as it is.
    """
    named = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), visible(value))
        for key, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(escape(visible(each)) for each in inside)
    return Markup("<{0}{1}>{2}</{0}>" if inside else "<{0}{1}/>").format(name, named, content)


def svg_file(width: float, height: float, *inside: Markup | str, **attributes: object) -> Markup:
    """Return an SVG file of `width` x `height` px that stands on its own, an element a line."""
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    lines = Markup("\n").join(["", *inside, ""])
    return element("svg", lines, xmlns="http://www.w3.org/2000/svg", **size, **attributes) + "\n"


def round_step(least: float, digits: tuple[float, ...] = _DIGITS) -> float:
    """Return the smallest of `digits` by a power of ten that is not below `least` > 0; `digits` end with 10."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in digits if power * digit >= least * (1 - 1e-9))


def round_ticks(low: float, high: float) -> list[float]:
    """Return the multiples of a round step from `low` to `high`, about `_MAX_TICKS` of them."""
    step = round_step((high - low) / _MAX_TICKS)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def histogram(bars: Sequence[Bar], *, title: str, labels: Iterable[Label], marker: Label | None = None) -> Markup:
    """Return stacked bars of a page, equally wide, from left to right, and `marker` as an upright line."""
    top = _round_ceiling(max((whole for whole, _, _ in bars), default=0))
    width = 100 / max(1, len(bars))
    drawn = []
    for number, (whole, part, hint) in enumerate(bars):
        left, blocks = width * number, []
        inset = {"x": f"{left + width * _GAP / 2:.3f}%", "width": f"{width * (1 - _GAP):.3f}%"}
        for kind, count in (("whole", whole), ("part", part)):
            if count:
                # A bar has at least one pixel, so that a single row among millions is visible.
                tall = max(1.0, _HEIGHT * count / top)
                blocks.append(element("rect", class_=kind, y=f"{_HEIGHT - tall:.2f}", height=f"{tall:.2f}", **inset))
        # This invisible rectangle has the chart's full height, so that low bars show their hint too.
        place = {"x": f"{left:.3f}%", "width": f"{width:.3f}%", "height": _HEIGHT}
        drawn.append(element("g", *blocks, element("rect", element("title", hint), class_="hit", **place)))
    if marker is not None:
        share, text = marker
        x, is_right = f"{100 * share:.3f}%", share > 0.8
        drawn.append(element("line", class_="marker", x1=x, x2=x, y1=-6, y2=_HEIGHT))
        kind, dx = ("marker last", -6) if is_right else ("marker", 6)
        drawn.append(element("text", text, class_=kind, x=x, dx=dx, y=2))
    return _page_chart(title, top, drawn, labels)


def curves(lines: Mapping[str, Sequence[tuple[int, int]]], *, title: str, unit: str) -> Markup | None:
    """Return lines of a page by name, counts over counts of `unit`, from nothing; None where nothing was counted."""
    ends = [points[-1] for points in lines.values()]
    right, top = max(x for x, _ in ends), _round_ceiling(max(y for _, y in ends))
    if not right:
        return None
    drawn = []
    for number, (name, points) in enumerate(lines.items()):
        data = "L".join(f"{100 * x / right:.3f} {_HEIGHT * (1 - y / top):.2f}" for x, y in points)
        drawn.append(element("path", element("title", name), class_=f"line line-{number}", d=f"M{data}"))
    # The drawing is stretched to its box, so that x coordinates are per cent.
    size = {"viewBox": f"0 0 100 {_HEIGHT}", "preserveAspectRatio": "none", "width": "100%", "height": _HEIGHT}
    plot = element("svg", *drawn, **size, overflow="visible")
    ticks = [(x / right, f"{x:,.0f}") for x in round_ticks(0, right) if x < 0.85 * right]
    return _page_chart(title, top, [plot], [*ticks, (1.0, unit)])


def _page_chart(title: str, top: float, drawn: Iterable[Markup], labels: Iterable[Label]) -> Markup:
    """Return what is drawn between the grid, from 0 to `top`, and the labels below it."""
    grid = []
    for share in (0.0, 0.5, 1.0):
        y = f"{_HEIGHT * (1 - share):.1f}"
        grid.append(element("line", class_="grid", x1=0, x2="100%", y1=y, y2=y))
        # Counts are whole numbers, so a fractional label is left out.
        if (top * share).is_integer():
            grid.append(element("text", f"{top * share:,.0f}", class_="y", x=-8, y=y))
    below = [
        element("text", text, class_="last" if at > 0.97 else "below", x=f"{100 * at:.3f}%", y=_HEIGHT + _LABEL_DEPTH)
        for at, text in labels
    ]
    return element("svg", *grid, *drawn, *below, class_="chart", height=_HEIGHT, role="img", aria_label=title)


def _round_ceiling(value: float) -> float:
    """Return the least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`; 1 for less than that."""
    return 1.0 if value <= 1 else round_step(value, (1.0, 2.0, 4.0, 5.0, 8.0, 10.0))


def share_bar(share: float) -> Markup:
    """Return a thin bar of a page, filled to a share in [0, 1]."""
    shape = {"height": _SHARE_HEIGHT, "rx": _SHARE_HEIGHT / 2}
    whole = element("rect", class_="whole", width="100%", **shape)
    part = element("rect", class_="part", width=f"{100 * min(1.0, max(0.0, share)):.2f}%", **shape)
    return element("svg", whole, part, class_="share", height=_SHARE_HEIGHT, aria_hidden="true")


def stacked_bar(parts: Mapping[str, float], *, title: str) -> Markup:
    """Return one bar of a page, of named parts, each as wide as its share of the sum."""
    total = sum(parts.values()) or 1.0
    blocks, at = [], 0.0
    for number, (name, value) in enumerate(parts.items()):
        wide = 100 * value / total
        hint = element("title", f"{name}: {wide:.0f} %")
        place = {"x": f"{at:.3f}%", "width": f"{wide:.3f}%", "height": _STACK_HEIGHT}
        blocks.append(element("rect", hint, class_=f"stage-{number % _NUM_STAGE_COLOURS}", **place))
        at += wide
    return element("svg", *blocks, class_="stack", height=_STACK_HEIGHT, role="img", aria_label=title)


def whisker(estimate: Estimate) -> Markup:
    """Return a share in [0, 1] and its interval on a page's line from 0 to 1; nothing where nothing was counted."""
    if not estimate.is_known:
        return Markup("")
    low, high = (estimate.low, estimate.high) if math.isfinite(estimate.low) else (estimate.value, estimate.value)
    shapes = (
        element("line", class_="track", x1="0%", x2="100%", y1=9, y2=9),
        element("rect", class_="span", x=f"{100 * low:.2f}%", width=f"{100 * (high - low):.2f}%", y=5, height=8, rx=3),
        element("circle", class_="dot", cx=f"{100 * estimate.value:.2f}%", cy=9, r=4.5),
    )
    return element("svg", *shapes, class_="whisker", width="100%", height=18, aria_hidden="true")


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A row of a file of intervals; only a name for a heading.

    `wide` are the ends of the interval that undecided verdicts leave open, dashed.
    """

    name: str
    estimate: Estimate | None = None
    wide: tuple[float, float] | None = None


def interval_chart(rows: Sequence[IntervalRow], *, title: str, low: float = 0.0) -> str:
    """Return an SVG file with a row per interval; shares run from `low` on the left to 1 on the right."""
    height, across = _TOP + _ROW * len(rows) + 30, _WIDTH - _LEFT - _RIGHT

    def place(value: float) -> str:
        return f"{_LEFT + across * (min(max(value, low), 1) - low) / (1 - low):.1f}"

    drawn = [element("style", Markup(_STYLE)), element("text", title, x=8, y=20, class_="title")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = f"{_LEFT + share * across:.1f}"
        drawn.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP - 4, y2=height - 26))
        drawn.append(element("text", f"{round(low + share * (1 - low), 3):g}", class_="mid", x=x, y=height - 8))
    for number, row in enumerate(rows):
        y, found = _TOP + _ROW * number + _ROW // 2, row.estimate
        name = row.name if len(row.name) < 42 else f"{row.name[:40]}…"
        kind, left = ("title", 8) if found is None else ("end", _LEFT - 12)
        drawn.append(element("text", name, class_=kind, x=left, y=y + 4))
        if found is None or not found.is_known:
            continue
        for each, ends in (("wide", row.wide), ("line", (found.low, found.high))):
            if ends is not None:
                drawn.append(element("line", class_=each, x1=place(ends[0]), x2=place(ends[1]), y1=y, y2=y))
        drawn.append(element("circle", class_="dot", cx=place(found.value), cy=y, r=5))
        said = f"{found.value_text(3)} {found.interval_text(2)}"
        drawn.append(element("text", said, x=_WIDTH - _RIGHT + 12, y=y + 4))
    return svg_file(_WIDTH, height, *drawn, role="img", aria_label=title)
