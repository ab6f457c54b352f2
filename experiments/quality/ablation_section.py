"""The ablation's section of the page: tables, plots, and where the paper's order holds or not, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from experiments.quality.markdown_cells import (
    cell,
    is_above_zero,
    is_below_zero,
    is_reversed_beside,
    markdown_table,
    percent,
    value,
)
from experiments.quality.page import render
from experiments.quality.parts import Result, plot_name
from experiments.quality.svg_chart import Axis, Line, axis_of, line_chart, whisker
from pseudoris.training.evaluation.truth import DIFFICULTIES

BOUND_TITLES: Final = {"paper": "the paper's rule", "shipped": "the shipped rule"}
_LADDER: Final = ("beam", "nucleus", "distinctive", "candidates")
# Whose draws are whose.
_DRAWS: Final = {
    "beam": "distinctive:beam.accuracy",
    "nucleus": "nucleus:sampling.accuracy",
    "distinctive": "distinctive:sampling.accuracy",
}
_SINGLES: Final = ("uniqueness", "correctness", "distinctiveness")
_CURVE_TITLES: Final = {
    "uniqueness-paper": "uniqueness alone, bound 1e-4",
    "uniqueness-shipped": "uniqueness alone, shipped bound",
    "correctness": "correctness alone",
    "distinctiveness-paper": "distinctiveness, bound 1e-4",
    "distinctiveness-shipped": "distinctiveness, shipped bound",
    "nucleus-distinctiveness-shipped": "… of nucleus candidates",
}
_DIFFICULTY_TITLES: Final = {"0": "none other", "1": "1", "2": "2", "3+": "3 or more"}
# In the plot; the table has all.
_SHOWN: Final = (*_LADDER[:3], "shipped-uniqueness", "shipped-correctness", "shipped-distinctiveness")


def section(result: Result) -> str:
    """Return the part's Markdown."""
    found = result["test"]
    parts = ["## The ablation", _intro(result), _ladder_table(found), _differences(found["differences"])]
    parts += [findings(result)]
    parts += ["### Why expressions are wrong", _reasons(found["systems"])]
    parts += ["### Filters at every yield", _plot("filters"), "### Sampling and filter, 2 × 2", _square(result)]
    parts += ["### By difficulty", _difficulty(found), _plot("difficulty")]
    parts += ["### Pairs never trained on, and a second renderer", _elsewhere(result)]
    return "\n\n".join(parts)


def plots(result: Result) -> Mapping[str, str]:
    """Return the part's plots."""
    return {"filters": _filter_plot(result["curves"]), "difficulty": _difficulty_plot(result["test"]["systems"])}


def _plot(name: str) -> str:
    return f"![{name}]({plot_name('ablation', name)})"


def _intro(result: Result) -> str:
    scenes, taus = result["scenes"], result["taus"]
    return (
        f"{scenes['test']:,} test scenes, held out of training and of every choice; thresholds were chosen on "
        f"{scenes['development']} development scenes. Masks are SAM's own. An expression is right where it fits its "
        "mask's object and nothing else; what is said of a mask that is no object, and what cannot be parsed, is "
        "wrong. Each distinct expression of a mask counts once, *of draws* every draw. In brackets 95 % intervals over "
        f"{result['resamples']:,} resamples of scenes.\n\n"
        "Two rules of distinctiveness stand side by side. *The paper's*: cosines clamped at 1e-4, "
        f"τ = {taus['paper']:g}. *The shipped one*: clamped at {result['shipped_min_cosine']:g}, "
        f"τ = {taus['shipped']:g}, chosen on development scenes when `tiny` was made. Uniqueness alone and correctness "
        "alone have the threshold at which they keep as many a mask, on development scenes, as distinctiveness does "
        "under the same rule: a filter is then better by what it keeps, not by how little."
    )


def _ladder_table(found: Mapping[str, Any]) -> str:
    systems, settings = found["systems"], found["settings"]
    rows = [_ladder_row(systems[name], settings.get(_DRAWS.get(name, ""))) for name in _LADDER]
    rows.append(_ladder_row(systems["paper-uniqueness-1"]))
    for bound, title in BOUND_TITLES.items():
        rows.append([f"*{title}*", *[""] * 6])
        rows += [_ladder_row(systems[f"{bound}-{column}"]) for column in _SINGLES]
    header = ["", "referring accuracy", "of draws", "yield a mask", "coverage", "true attributes", "words"]
    return markdown_table(header, rows)


def _ladder_row(system: Mapping[str, Any], of_draws: Mapping[str, Any] | None = None) -> list[str]:
    return [
        system["title"],
        cell(system["accuracy"]),
        value(of_draws) if of_draws else "",
        cell(system["yield"], 2),
        cell(system["coverage"]),
        value(system["attribute_precision"]),
        value(system["words"], 1),
    ]


def _differences(differences: Mapping[str, Any]) -> str:
    shown = {name: each for name, each in differences.items() if "square" not in name}
    rows = [
        [
            _step_title(name),
            cell(each["accuracy"], sign="+"),
            verdict(each["accuracy"]),
            cell(each["coverage"], sign="+"),
        ]
        for name, each in shown.items()
    ]
    text = "Paired differences; the paper's order is that each is above zero:"
    return f"{text}\n\n{markdown_table(['', 'referring accuracy', 'the order', 'coverage'], rows)}"


def _step_title(name: str) -> str:
    return name.replace(" - ", " − ").replace("-", " ")


def _reasons(systems: Mapping[str, Any]) -> str:
    names = (*_LADDER, *(f"{bound}-{column}" for bound in BOUND_TITLES for column in _SINGLES))
    rows = [
        [
            _step_title(name),
            value(systems[name]["accuracy"]),
            *(percent(each) for each in systems[name]["wrong"].values()),
        ]
        for name in names
    ]
    header = ["", "right", "mask is no object", "unreadable", "untrue of its object", "true of others too"]
    return "Of the distinct expressions, the first reason that holds:\n\n" + markdown_table(header, rows)


def _square(result: Result) -> str:
    systems, differences = result["test"]["systems"], result["test"]["differences"]
    text = (
        "Over what the samplers drew, beams left out. *At equal candidates* both have the same 40 draws a mask and "
        "the rule's own τ; *at equal yield* τ is chosen, on development scenes and for each, to keep "
        f"{result['equal_yield']} a mask there, what it keeps on test scenes stands beside, and no filter means any "
        "two of a mask's distinct candidates."
    )
    rows = []
    for filtered, title in (("none", "no filter"), *BOUND_TITLES.items()):
        for kind, said in (("candidates", "equal candidates"), ("yield", "equal yield")):
            names = [f"square-{who}-{filtered}-{kind}" for who in ("nucleus", "distinctive")]
            gain = differences[f"{names[1]} - {names[0]}"]["accuracy"]
            figures = [f"{cell(systems[name]['accuracy'])} at {value(systems[name]['yield'], 2)}" for name in names]
            rows.append([f"{title}, {said}", *figures, cell(gain, sign="+")])
    return text + "\n\n" + markdown_table(["", "nucleus", "distinctive", "distinctive − nucleus"], rows)


def _difficulty(found: Mapping[str, Any]) -> str:
    systems, shown = found["systems"], DIFFICULTIES[:-1]
    names = (*_LADDER, *(f"{bound}-{column}" for bound in BOUND_TITLES for column in _SINGLES))
    rows = [[_step_title(name), *(_counted(systems[name]["difficulty"].get(part)) for part in shown)] for name in names]
    rows += [
        [f"*{_step_title(name)}*", *(cell(parts.get(part), sign="+") for part in shown)]
        for name, parts in found["by_difficulty"].items()
    ]
    text = (
        "Accuracy of what is said of objects, by how many others of the scene share their category, and of how many "
        "expressions; in the last rows paired differences:"
    )
    return f"{text}\n\n{markdown_table(['', *(_DIFFICULTY_TITLES[part] for part in shown)], rows)}"


def _counted(figure: Mapping[str, Any] | None) -> str:
    return "–" if figure is None else f"{cell(figure)} of {figure['expressions']:,}"


def _elsewhere(result: Result) -> str:
    here, there, true = result["test"]["systems"], result["second"]["systems"], result["true_masks"]["systems"]
    gaps, scenes = result["default_minus_second"], result["scenes"]
    text = (
        "*Held out* are the pairs of category and colour that no training scene has. *Second renderer*: "
        f"{scenes['second']} of the test scenes painted anew with other textures, palette, pattern geometry, noise "
        "and light, under the same thresholds; the difference is paired, for the objects are the same. *True masks*: "
        f"the truth's masks in place of SAM's, {scenes['true_masks']} test scenes."
    )
    names = (*_LADDER[:3], *(f"{bound}-{column}" for bound in BOUND_TITLES for column in _SINGLES))
    rows = [
        [
            _step_title(name),
            cell(here[name]["groups"].get("seen")),
            cell(here[name]["groups"].get("held_out")),
            cell(there[name]["accuracy"]),
            cell(gaps[f"{name}/accuracy"], sign="+"),
            cell(true[name]["accuracy"]),
        ]
        for name in names
    ]
    header = ["referring accuracy", "seen pairs", "held-out pairs", "second renderer", "default − second", "true masks"]
    recall = gaps["distinctive:masks.recall_75"]
    masks = f"The recall of masks at IoU 0.75, default − second renderer: {cell(recall, sign='+')}."
    return f"{text}\n\n{markdown_table(header, rows)}\n\n{masks}"


def _filter_plot(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = [
        Line(_CURVE_TITLES[name], _points(points), is_dashed=name.startswith("nucleus"))
        for name, points in curves.items()
    ]
    heights = [point[1] for line in lines for point in line.points]
    widths = [point[0] for line in lines for point in line.points]
    x = axis_of("distinct kept expressions a mask (yield)", widths, start=0.0)
    return line_chart("Filters at every yield, test scenes", x, axis_of("referring accuracy", heights), lines)


def _points(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, ...]]:
    return [
        whisker(point["yield"]["value"], point["accuracy"])
        for point in points
        if point["accuracy"]["value"] is not None
    ]


def _difficulty_plot(systems: Mapping[str, Any]) -> str:
    parts = DIFFICULTIES[:-1]
    lines = []
    for name in _SHOWN:
        known = [(float(place), systems[name]["difficulty"].get(part)) for place, part in enumerate(parts)]
        points = [whisker(at, each) for at, each in known if each]
        lines.append(Line(_step_title(name), points))
    labels = [(float(place), _DIFFICULTY_TITLES[part]) for place, part in enumerate(parts)]
    x = Axis("other objects of the same category in the scene", -0.3, len(parts) - 0.7, labels)
    return line_chart("Referring accuracy by difficulty", x, Axis("referring accuracy", 0.0, 1.0), lines)


def findings(result: Result) -> str:
    """Return the findings as Markdown; the text is `texts/ablation.md.j2`."""
    return render("ablation", _words(result))


def verdict(difference: dict[str, Any]) -> str:
    """Return whether a claimed order holds: the interval lies above zero, below it, or on both sides."""
    if difference["low"] is None:
        return "–"
    if is_above_zero(difference):
        return "holds"
    return "is reversed" if is_below_zero(difference) else "undecided"


def _words(result: Result) -> dict[str, Callable[..., str | bool]]:
    systems, steps = result["test"]["systems"], result["test"]["differences"]
    groups = systems["shipped-distinctiveness"]["groups"]

    def gain(name: str, figure: str = "accuracy") -> str:
        return cell(steps[name][figure], sign="+")

    return {
        "gain": gain,
        "square": lambda name: gain(f"square-distinctive-{name} - square-nucleus-{name}"),
        "order": lambda name: verdict(steps[name]["accuracy"]),
        "wrong": lambda name, reason: percent(systems[name]["wrong"][reason]),
        "accuracy": lambda name: value(systems[name]["accuracy"], 2),
        "yield_of": lambda name, digits=1: value(systems[name]["yield"], digits),
        "coverage": lambda name: value(systems[name]["coverage"], 2),
        "easy": lambda name: _easy_share(systems[name]),
        "by_difficulty": lambda name, part: cell(result["test"]["by_difficulty"][name].get(part), sign="+"),
        "reversed_beside": lambda name: is_reversed_beside(result["test"]["by_difficulty"][name]),
        "a_mask": lambda name, reason: _a_mask(systems[name], systems[name]["wrong"][reason]),
        "right_a_mask": lambda name: _a_mask(systems[name], systems[name]["accuracy"]),
        "at": lambda name, part: value(systems[name]["difficulty"].get(part), 2),
        "second": lambda name: cell(result["default_minus_second"][f"{name}/accuracy"], sign="+"),
        "second_yield": lambda name: value(result["second"]["systems"][name]["yield"], 2),
        "condition": lambda name: systems[name]["title"].removeprefix("+ "),
        "group": lambda name: value(groups.get(name), 2),
    }


def _a_mask(system: dict[str, Any], share: dict[str, float]) -> str:
    return f"{share['value'] * system['yield']['value']:.2f}"


def _easy_share(system: dict[str, Any]) -> str:
    """Of what is kept of objects, the share of those without another of their category."""
    counts = {part: each["expressions"] for part, each in system["difficulty"].items() if part != "no object"}
    total = sum(counts.values())
    return f"{100 * counts.get('0', 0) / total:.0f} %" if total else "–"
