"""Writes the quality page for `cli/gallery.py`: a run's figures as charts and tables. Its only script is the theme's.

Charts are inline SVG without a style attribute, so that the page's policy holds: colours are classes of the stylesheet.
Horizontal coordinates are per cent of the plot, vertical ones are pixels: a chart fills the width of its place, and its
letters keep their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import floor
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from pseudoris.store.reports.statistics import KeptCount
from pseudoris.store.reports.svg import element, round_step
from pseudoris.viewer.gallery_page import INDEX_NAME, QUALITY_NAME
from pseudoris.viewer.pages import iter_page
from pseudoris.viewer.quality import FRAME_WORDS, MAX_COMPARED, MIN_JACCARD, RunQuality

_NUM_BINS: Final = 48
_MAX_BARS: Final = 40
_NUM_COMMON: Final = 20
_HEAT_LEVELS: Final = 10
# Scores beyond these quantiles join the outermost bars. Otherwise all other scores would fill only a few bars.
_QUANTILES: Final = (0.005, 0.995)
HEIGHT_PX: Final = 190
NUM_STAGE_COLOURS: Final = 6
_STACK_HEIGHT_PX: Final = 28
_SHARE_HEIGHT_PX: Final = 6
# The gap between two bars is this share of the distance from one bar to the next.
_GAP: Final = 0.12
_MAX_LABELS: Final = 9
_MAX_TICKS: Final = 5
_LABEL_DEPTH_PX: Final = 18


def iter_quality(quality: RunQuality) -> Iterator[str]:
    """Yield the page's text piece by piece."""
    rule = quality.summary.rule
    tau = rule.tau if rule else None
    images, seconds = quality.summary.images, quality.summary.seconds
    content: dict[str, Any] = {
        "summary": quality.summary,
        "quality": quality,
        "masks_chart": _counts_chart(quality.masks_per_image, quality.masks_per_image, "image", "mask"),
        "mean_masks": _mean(quality.masks_per_image),
        "lengths_chart": _counts_chart(quality.lengths, quality.kept_lengths, "expression", "word"),
        "mean_length": _mean(quality.lengths),
        "mean_kept_length": _mean(quality.kept_lengths),
        "score_charts": [
            (
                name,
                _score_chart(quality, name, tau if name == "distinctiveness" else None),
                float(np.median(scores)) if scores.size else None,
            )
            for name, scores in quality.scores.items()
        ],
        "heat": _heat(quality),
        "growth_chart": _growth_chart(quality),
        "texts": _common(quality.texts),
        "nouns": _common(quality.nouns),
        # Each row has a stage, its seconds, its milliseconds per image, and its images per second.
        "stages": [
            (stage, each, 1000 * each / images if images else 0.0, images / each if each else None)
            for stage, each in seconds.items()
        ],
        "stage_bar": _stacked_bar(seconds, title="share of the seconds by stage"),
        "rules": {"min_jaccard": MIN_JACCARD, "max_compared": MAX_COMPARED, "frame": sorted(FRAME_WORDS)},
        "share_bar": share_bar,
        "index_name": INDEX_NAME,
        "quality_name": QUALITY_NAME,
    }
    yield from iter_page("quality.html.j2", content, styles=("base", "quality"), scripts=())


def _mean(counts: Mapping[int, int]) -> float | None:
    total = sum(counts.values())
    return sum(value * count for value, count in counts.items()) / total if total else None


def _counts_chart(whole: Mapping[int, int], part: Mapping[int, int], thing: str, unit: str) -> Markup | None:
    """Return one bar for each number; numbers beyond the last bar count in it."""
    if not whole:
        return None
    last = min(max(whole), max(_MAX_BARS, min(whole)))
    bars, names = [], []
    for value in range(min(whole), last + 1):
        is_rest = value == last and max(whole) > last
        all_of = sum(count for each, count in whole.items() if each == value or (is_rest and each > value))
        part_of = sum(count for each, count in part.items() if each == value or (is_rest and each > value))
        name = f"{value}{'+' if is_rest else ''}"
        hint = f"{name} {unit}{'' if name == '1' else 's'}: {all_of:,} {thing}{'' if all_of == 1 else 's'}"
        hint += "" if whole is part else f", {part_of:,} kept"
        bars.append((all_of, part_of, hint))
        names.append(name)
    # Each label is below the middle of its bar. If there are many bars, only every nth bar has a label.
    step = max(1, -(-len(names) // _MAX_LABELS))
    labels = [((place + 0.5) / len(names), names[place]) for place in range(0, len(names), step)]
    return _histogram(bars, title=f"{thing}s by their number of {unit}s", labels=labels)


def _score_chart(quality: RunQuality, name: str, tau: float | None) -> Markup | None:
    scores, kept = quality.scores[name], quality.is_kept[name]
    if not scores.size:
        return None
    low, high = (float(each) for each in np.quantile(scores, _QUANTILES))
    if tau is not None:
        low, high = min(low, tau), max(high, tau)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _NUM_BINS + 1)
    inside = np.clip(scores.astype(np.float64), low, high)
    whole, part = np.histogram(inside, edges)[0].tolist(), np.histogram(inside[kept], edges)[0].tolist()
    names = [f"{start:.3g} to {end:.3g}" for start, end in pairwise(edges)]
    if scores.min() < low:
        names[0] = f"below {edges[1]:.3g}"
    if scores.max() > high:
        names[-1] = f"{edges[-2]:.3g} and above"
    bars = [
        (n, k, f"{each}: {n:,} expression{'' if n == 1 else 's'}, {k:,} kept")
        for each, n, k in zip(names, whole, part, strict=True)
    ]
    step = nice_ticks(high - low)[1]
    ticks = [(-(-low // step) + number) * step for number in range(floor((high - low) / step) + 2)]
    labels = [((tick - low) / (high - low), f"{tick:.3g}") for tick in ticks if low <= tick <= high]
    marker = None if tau is None else ((tau - low) / (high - low), f"τ = {tau:g}")
    return _histogram(bars, title=f"expressions by {name}", labels=labels, marker=marker)


def _heat(quality: RunQuality) -> dict[str, Any]:
    """Return the table of shares kept, a row per decoder and a column per crop, with the row and the column of all."""
    draws = quality.draws
    crops = sorted({kind.crop for kind in draws}, key=lambda crop: (crop != "masked", crop))
    # Decoders without a setting come first, because None cannot be compared with a number.
    decoders = sorted(
        {(kind.decoder, kind.setting) for kind in draws}, key=lambda each: (each[0], each[1] is not None, each[1] or 0)
    )
    shares = [count.share for count in draws.values() if count.counted]
    low, high = min(shares, default=0.0), max(shares, default=1.0)

    def at(decoder: tuple[str, float | None] | None, crop: str | None) -> dict[str, Any]:
        chosen = (
            count
            for kind, count in draws.items()
            if decoder in (None, (kind.decoder, kind.setting)) and crop in (None, kind.crop)
        )
        count = sum(chosen, KeptCount())
        if not count.counted:
            return {"drawn": 0, "kept": 0, "share": None, "level": 0}
        share = count.share
        level = round(_HEAT_LEVELS * (share - low) / (high - low or 1.0))
        return {"drawn": count.counted, "kept": count.kept, "share": share, "level": min(max(level, 0), _HEAT_LEVELS)}

    names = [decoder.replace("_", "-") + ("" if setting is None else f" {setting:g}") for decoder, setting in decoders]
    return {
        "crops": [crop.replace("context_", "context ×") for crop in crops],
        "rows": [
            (name, [at(each, crop) for crop in crops], at(each, None))
            for name, each in zip(names, decoders, strict=True)
        ],
        "all": ([at(None, crop) for crop in crops], at(None, None)),
    }


def _growth_chart(quality: RunQuality) -> Markup | None:
    """Return the distinct words of all candidates and of kept ones, as lines over the number of expressions read."""
    lines = {"all candidates": quality.all_words.points, "kept": quality.kept_words.points}
    ends = [points[-1] for points in lines.values()]
    right, top = max(x for x, _ in ends), nice_ceiling(max(y for _, y in ends))
    if not right:
        return None
    drawn = []
    for number, (name, points) in enumerate(lines.items()):
        data = "L".join(f"{100 * x / right:.3f} {HEIGHT_PX * (1 - y / top):.2f}" for x, y in points)
        drawn.append(element("path", element("title", name), class_=f"line line-{number}", d=f"M{data}"))
    # The drawing is stretched to its box, so that x coordinates are per cent.
    size = {"viewBox": f"0 0 100 {HEIGHT_PX}", "preserveAspectRatio": "none", "width": "100%", "height": HEIGHT_PX}
    plot = element("svg", *drawn, **size, overflow="visible")
    ticks = [(x / right, f"{x:,.0f}") for x in nice_ticks(right) if x < 0.85 * right]
    title = "distinct words, by number of expressions read"
    return _chart(title, _grid(top), plot, _labels([*ticks, (1.0, "expressions")]))


def _common(counts: Mapping[str, int]) -> list[tuple[str, int, float, float]]:
    """Return text, count, share of all, and count over the largest; equal counts in the order of the text."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NUM_COMMON]
    return [(text, count, count / total, count / ranked[0][1]) for text, count in ranked]


# A bar is its count, the part of the count that has the strong colour, and its tooltip.
Bar = tuple[int, int, str]
# A label is a position, as a share of the width in [0, 1], and the text at that position.
Label = tuple[float, str]


def _histogram(bars: Sequence[Bar], *, title: str, labels: Iterable[Label], marker: Label | None = None) -> Markup:
    """Draw stacked bars, equally wide, from left to right, and `marker` as an upright line."""
    top = nice_ceiling(max((whole for whole, _, _ in bars), default=0))
    width = 100 / max(1, len(bars))
    drawn = []
    for number, (whole, part, hint) in enumerate(bars):
        left, blocks = width * number, []
        inset = {"x": f"{left + width * _GAP / 2:.3f}%", "width": f"{width * (1 - _GAP):.3f}%"}
        for kind, count in (("whole", whole), ("part", part)):
            if count:
                # A bar has at least one pixel, so that a single row among millions is visible.
                tall = max(1.0, HEIGHT_PX * count / top)
                blocks.append(element("rect", class_=kind, y=f"{HEIGHT_PX - tall:.2f}", height=f"{tall:.2f}", **inset))
        # This invisible rectangle has the chart's full height, so that low bars show their hint too.
        place = {"x": f"{left:.3f}%", "width": f"{width:.3f}%", "height": HEIGHT_PX}
        drawn.append(element("g", *blocks, element("rect", element("title", hint), class_="hit", **place)))
    if marker is not None:
        share, text = marker
        x, is_right = f"{100 * share:.3f}%", share > 0.8
        drawn.append(element("line", class_="marker", x1=x, x2=x, y1=-6, y2=HEIGHT_PX))
        kind, dx = ("marker last", -6) if is_right else ("marker", 6)
        drawn.append(element("text", text, class_=kind, x=x, dx=dx, y=2))
    return _chart(title, _grid(top), *drawn, _labels(labels))


def share_bar(share: float) -> Markup:
    """Return a thin bar, filled to a share in [0, 1]."""
    shape = {"height": _SHARE_HEIGHT_PX, "rx": _SHARE_HEIGHT_PX / 2}
    whole = element("rect", class_="whole", width="100%", **shape)
    part = element("rect", class_="part", width=f"{100 * min(1.0, max(0.0, share)):.2f}%", **shape)
    return element("svg", whole, part, class_="share", height=_SHARE_HEIGHT_PX, aria_hidden="true")


def _stacked_bar(parts: Mapping[str, float], *, title: str) -> Markup:
    """Return one bar of named parts, each as wide as its share of the sum."""
    total = sum(parts.values()) or 1.0
    blocks, at = [], 0.0
    for number, (name, value) in enumerate(parts.items()):
        wide = 100 * value / total
        hint = element("title", f"{name}: {wide:.0f} %")
        place = {"x": f"{at:.3f}%", "width": f"{wide:.3f}%", "height": _STACK_HEIGHT_PX}
        blocks.append(element("rect", hint, class_=f"stage-{number % NUM_STAGE_COLOURS}", **place))
        at += wide
    return element("svg", *blocks, class_="stack", height=_STACK_HEIGHT_PX, role="img", aria_label=title)


def nice_ceiling(value: float) -> float:
    """Return the least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`; 1 for less than that."""
    return 1.0 if value <= 1 else round_step(value, (1.0, 2.0, 4.0, 5.0, 8.0, 10.0))


def nice_ticks(right: float) -> list[float]:
    """Return 0 and round steps up to `right` > 0, at most `_MAX_TICKS` of them after the 0."""
    step = round_step(right / _MAX_TICKS)
    return [number * step for number in range(floor(right / step + 1e-9) + 1)]


def _chart(title: str, *inside: Markup | str) -> Markup:
    return element("svg", *inside, class_="chart", height=HEIGHT_PX, role="img", aria_label=title)


def _grid(top: float) -> Markup:
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = f"{HEIGHT_PX * (1 - share):.1f}"
        drawn.append(element("line", class_="grid", x1=0, x2="100%", y1=y, y2=y))
        # Counts are whole numbers, so a fractional label is left out.
        if (top * share).is_integer():
            drawn.append(element("text", f"{top * share:,.0f}", class_="y", x=-8, y=y))
    return Markup("").join(drawn)


def _labels(labels: Iterable[Label]) -> Markup:
    y = HEIGHT_PX + _LABEL_DEPTH_PX
    return Markup("").join(
        element("text", text, class_="last" if share > 0.97 else "below", x=f"{100 * share:.3f}%", y=y)
        for share, text in labels
    )
