"""Writes the quality page for `cli/gallery.py`: a run's figures as charts and tables. Its only script is the theme's.

Charts are inline SVG of `store/reports/charts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from pseudoris.store.reports.charts import curves, histogram, round_ticks, share_bar, stacked_bar
from pseudoris.store.reports.statistics import KeptCount
from pseudoris.viewer.gallery_page import INDEX_NAME, QUALITY_NAME
from pseudoris.viewer.pages import iter_page
from pseudoris.viewer.quality import FRAME_WORDS, MAX_COMPARED, MIN_JACCARD, RunQuality

_NUM_BINS: Final = 48
_MAX_BARS: Final = 40
_NUM_COMMON: Final = 20
_HEAT_LEVELS: Final = 10
# Scores beyond these quantiles join the outermost bars. Otherwise all other scores would fill only a few bars.
_QUANTILES: Final = (0.005, 0.995)
_MAX_LABELS: Final = 9


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
        "growth_chart": curves(
            {"all candidates": quality.all_words.points, "kept": quality.kept_words.points},
            title="distinct words, by number of expressions read",
            unit="expressions",
        ),
        "texts": _common(quality.texts),
        "nouns": _common(quality.nouns),
        # Each row has a stage, its seconds, its milliseconds per image, and its images per second.
        "stages": [
            (stage, each, 1000 * each / images if images else 0.0, images / each if each else None)
            for stage, each in seconds.items()
        ],
        "stage_bar": stacked_bar(seconds, title="share of the seconds by stage"),
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
    return histogram(bars, title=f"{thing}s by their number of {unit}s", labels=labels)


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
    labels = [((tick - low) / (high - low), f"{tick:.3g}") for tick in round_ticks(low, high)]
    marker = None if tau is None else ((tau - low) / (high - low), f"τ = {tau:g}")
    return histogram(bars, title=f"expressions by {name}", labels=labels, marker=marker)


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


def _common(counts: Mapping[str, int]) -> list[tuple[str, int, float, float]]:
    """Return text, count, share of all, and count over the largest; equal counts in the order of the text."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NUM_COMMON]
    return [(text, count, count / total, count / ranked[0][1]) for text, count in ranked]
