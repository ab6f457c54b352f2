"""The sweeps on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.quality.parts import Result, plot_name
from benchmarks.quality.plots import Line, axis_of, line_chart
from benchmarks.quality.tables import cell, markdown_table, value

_SWEEPS: Final = {
    "samplers": ("Number of candidates", "samplers a crop", "Samplers on each of the four crops, beside the beam."),
    "crops": ("Crop kinds", "crops", "Which crops are captioned; the filter always looks at its own two."),
    "others": (
        "Share of others",
        "share",
        "`captions.sampling.others_weight`: 0 is the target's own distribution, 1 the paper's contrast. *By "
        "similarity*: other masks count by how alike their crops are (`others_weighting=similar`), not by their mean.",
    ),
    "masks": ("Masks", "masks", "SAM's masks with and without `masks.reduction`, and the truth's."),
}

# Fewer tell no accuracy.
_MIN_EXPRESSIONS: Final = 30


def section(result: Result) -> str:
    """Return the part's Markdown."""
    intro = (
        f"{result['scenes']} development scenes, one setting moved at a time. *Drawn*: all distinct candidates. "
        "*Paper* and *shipped*: what distinctiveness keeps of them under the two rules of the ablation. *Right a mask* "
        f"is accuracy times yield. A dash: fewer than {_MIN_EXPRESSIONS} expressions."
    )
    parts = ["## Sweeps", intro, "### τ", _taus(result["tau"]), f"![tau]({plot_name('sweeps', 'tau')})"]
    for name, (title, column, text) in _SWEEPS.items():
        parts += [f"### {title}", text, _table(column, result[name], with_masks=name == "masks")]
    return "\n\n".join(parts)


def plots(result: Result) -> Mapping[str, str]:
    """Return the part's plots."""
    lines = []
    for bound, points in result["tau"].items():
        for figure in ("accuracy", "coverage"):
            known = [(each["tau"], each[figure]) for each in points if each["expressions"] >= _MIN_EXPRESSIONS]
            drawn = [(tau, each["value"], each["low"], each["high"]) for tau, each in known]
            lines.append(Line(f"{figure}, {bound} bound", drawn, is_dashed=figure == "coverage"))
    widths = [point[0] for line in lines for point in line.points]
    heights = [point[1] for line in lines for point in line.points]
    chart = line_chart("Accuracy and coverage over τ", axis_of("τ", widths), axis_of("share", [0.0, *heights]), lines)
    return {"tau": chart}


def _taus(taus: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = [
        [f"{one['tau']:g}", *_three(one), *_three(other)]
        for one, other in zip(taus["paper"], taus["shipped"], strict=True)
    ]
    header = ["τ", "accuracy, bound 1e-4", "yield", "coverage", "accuracy, shipped bound", "yield", "coverage"]
    return markdown_table(header, rows)


def _three(figures: Mapping[str, Any]) -> list[str]:
    """Accuracy, yield and coverage; of too few expressions there is no accuracy to speak of."""
    accuracy = cell(figures["accuracy"]) if figures["expressions"] >= _MIN_EXPRESSIONS else "–"
    return [accuracy, value(figures["yield"], 2), value(figures["coverage"])]


def _table(column: str, rows: Sequence[Mapping[str, Any]], *, with_masks: bool) -> str:
    header = [column, "accuracy drawn", "distinct a mask", "paper: accuracy", "yield", "coverage"]
    header += ["shipped: accuracy", "yield", "coverage", "right a mask"]
    header += ["recall at IoU 0.75", "masks that are objects"] if with_masks else []
    cells = []
    for row in rows:
        drawn, shipped = row["drawn"], row["shipped"]
        right = (shipped["accuracy"]["value"] or 0.0) * (shipped["yield"]["value"] or 0.0)
        line = [row["label"], value(drawn["accuracy"]), value(drawn["yield"], 1)]
        line += [*_three(row["paper"]), *_three(shipped), f"{right:.2f}"]
        line += [value(row["masks"]["recall_75"]), value(row["masks"]["objects"])] if with_masks else []
        cells.append(line)
    return markdown_table(header, cells)
