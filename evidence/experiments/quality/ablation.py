"""The paper's ablation: each step, the 2 x 2 of sampling and filter, by difficulty, and in another world.

Thresholds are chosen on development scenes. Test scenes are counted once, under rules that were fixed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from evidence.experiments.quality.annotated_scenes import DISTINCTIVE, SceneSet
from evidence.experiments.quality.ladder import (
    BOUNDS,
    CURVE_YIELDS,
    CURVES,
    EQUAL_YIELD,
    REASONS,
    Sums,
    System,
    Thresholds,
    count_systems,
    curves,
    ladder,
    on_true_masks,
    square,
)
from evidence.experiments.quality.markdown_cells import as_json, differences, is_reversed_beside, paired
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import Options, Part, Result
from evidence.experiments.quality.svg_chart import Axis, Line, axis_of, line_chart, whisker
from evidence.experiments.verdicts import verdict
from pseudoris.schemas.estimate import RESAMPLES, ImageBootstrap
from pseudoris.synthworld.scene_truth import HELD_OUT, SEEN
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.truth import DIFFICULTIES

FIGURES: Final = (
    *("accuracy", "yield", "coverage", "accuracy_on_objects"),
    *("attribute_precision", "attribute_recall", "words"),
)
_SINGLE: Final = ("uniqueness", "correctness")
# (more, less): paired differences of the ladder.
STEPS: Final = (
    ("nucleus", "beam"),
    ("distinctive", "nucleus"),
    *((f"{bound}-{column}", "candidates") for bound in BOUNDS for column in (*_SINGLE, "distinctiveness")),
    *((f"{bound}-distinctiveness", f"{bound}-{column}") for bound in BOUNDS for column in _SINGLE),
    ("shipped-distinctiveness", "paper-distinctiveness"),
)
# Told apart by difficulty: what a filter keeps of easy objects and of hard ones may change what all of it comes to.
BY_DIFFICULTY: Final = tuple((f"{bound}-distinctiveness", f"{bound}-uniqueness") for bound in BOUNDS)
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
_SHOWN: Final = (
    "beam",
    "nucleus",
    "distinctive",
    "shipped-uniqueness",
    "shipped-correctness",
    "shipped-distinctiveness",
)


def run(options: Options) -> Result:
    """Measure all of it."""
    development = SceneSet(Split.DEVELOPMENT, options.scenes(400, 40))
    test = SceneSet(Split.TEST, options.scenes(1000, 100))
    true = SceneSet(Split.TEST, options.scenes(100, 20))
    other = SceneSet(Split.TEST, options.scenes(100, 20), world="second")
    thresholds = Thresholds.on(options, development)
    steps, squares, lines = ladder(thresholds), square(thresholds), curves(thresholds)
    counted = count_systems(options, test, [*steps, *squares, *lines])
    elsewhere = count_systems(options, other, [*steps, *squares])
    bootstrap = ImageBootstrap(counted, seed=options.seed)
    return {
        "scenes": {
            **{"development": development.count, "test": test.count},
            **{"second": other.count, "true_masks": true.count},
        },
        "resamples": RESAMPLES,
        "taus": thresholds.taus,
        "shipped_min_cosine": DISTINCTIVE.config().filtering.min_cosine,
        "equal_yield": EQUAL_YIELD,
        "test": report(bootstrap, [*steps, *squares]),
        "curves": _curves(bootstrap),
        "true_masks": _report(options, count_systems(options, true, on_true_masks(steps)), steps),
        "second": _report(options, elsewhere, [*steps, *squares]),
        "default_minus_second": _between(options, counted[: other.count], elsewhere, steps),
    }


def _report(options: Options, counted: Sequence[Sums], systems: Sequence[System]) -> dict[str, Any]:
    return report(ImageBootstrap(counted, seed=options.seed), systems)


def report(bootstrap: ImageBootstrap, systems: Sequence[System]) -> dict[str, Any]:
    """Return the figures of each system, paired differences, and what is the same for all systems of a setting."""
    present = {system.name for system in systems}
    squares = [
        (f"square-distinctive-{kind}", f"square-nucleus-{kind}")
        for kind in ("none-candidates", "none-yield", *(f"{b}-{k}" for b in BOUNDS for k in ("candidates", "yield")))
    ]
    pairs = [(more, less) for more, less in (*STEPS, *squares) if {more, less} <= present]
    return {
        "systems": {system.name: _system(bootstrap, system) for system in systems},
        "differences": {
            f"{more} - {less}": {
                figure: as_json(bootstrap.difference(f"{more}/{figure}", f"{less}/{figure}"))
                for figure in ("accuracy", "coverage")
            }
            for more, less in pairs
        },
        "by_difficulty": {
            f"{more} - {less}": _difficulty_differences(bootstrap, more, less)
            for more, less in BY_DIFFICULTY
            if {more, less} <= present
        },
        "settings": {name: as_json(bootstrap.ratio(name)) for name in bootstrap.names if ":" in name},
    }


def _difficulty_differences(bootstrap: ImageBootstrap, more: str, less: str) -> dict[str, Any]:
    """Paired differences in accuracy among the expressions of objects with as many others of their category."""
    names = {part: [f"{system}/difficulty.{part}" for system in (more, less)] for part in DIFFICULTIES}
    known = set(bootstrap.names)
    return {part: as_json(bootstrap.difference(*both)) for part, both in names.items() if known.issuperset(both)}


def _system(bootstrap: ImageBootstrap, system: System) -> dict[str, Any]:
    names = set(bootstrap.names)

    def apart(kind: str, parts: Sequence[str]) -> dict[str, Any]:
        full = {part: f"{system.name}/{kind}.{part}" for part in parts}
        return {
            part: as_json(bootstrap.ratio(name)) | {"expressions": round(bootstrap.total(name)[1])}
            for part, name in full.items()
            if name in names
        }

    return {
        "title": system.title,
        **{figure: as_json(bootstrap.ratio(f"{system.name}/{figure}")) for figure in FIGURES},
        "wrong": {reason: as_json(bootstrap.ratio(f"{system.name}/wrong.{reason}")) for reason in REASONS},
        "difficulty": apart("difficulty", DIFFICULTIES),
        "groups": apart("group", (SEEN, HELD_OUT)),
    }


def _curves(bootstrap: ImageBootstrap) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {figure: as_json(bootstrap.ratio(f"curve-{name}-{wanted:g}/{figure}")) for figure in FIGURES[:3]}
            for wanted in CURVE_YIELDS
        ]
        for name, *_ in CURVES
    }


def _between(
    options: Options, here: Sequence[Sums], there: Sequence[Sums], systems: Sequence[System]
) -> dict[str, Any]:
    """Paired differences of the two renderers: the same objects, painted twice."""
    names = [f"{system.name}/accuracy" for system in systems] + [f"{DISTINCTIVE.name}:masks.recall_75"]
    return differences(paired({"here": here, "there": there}, seed=options.seed), "here", "there", names)


def plots(result: Result) -> Mapping[str, str]:
    """Return the part's plots."""
    return {"filters": _filter_plot(result["curves"]), "difficulty": _difficulty_plot(result["test"]["systems"])}


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
        lines.append(Line(step_title(name), points))
    labels = [(float(place), _DIFFICULTY_TITLES[part]) for place, part in enumerate(parts)]
    x = Axis("other objects of the same category in the scene", -0.3, len(parts) - 0.7, labels)
    return line_chart("Referring accuracy by difficulty", x, Axis("referring accuracy", 0.0, 1.0), lines)


def order(difference: dict[str, Any]) -> str:
    """Return whether a claimed order of answers of the same models holds."""
    found = verdict(difference["low"], difference["high"], None)
    return {"above": "holds", "below": "is reversed", "no verdict": "–"}.get(found, found)


def step_title(name: str) -> str:
    """Return the name of a system, or of a difference of two, as the tables have it."""
    return name.replace(" - ", " − ").replace("-", " ")


def easy_share(system: Mapping[str, Any]) -> str:
    """Return, of what is kept of objects, the share of those without another of their category."""
    counts = {part: each["expressions"] for part, each in system["difficulty"].items() if part != "no object"}
    total = sum(counts.values())
    return f"{100 * counts.get('0', 0) / total:.0f} %" if total else "–"


_WORDS: Final = {
    "difficulties": _DIFFICULTY_TITLES,
    **{each.__name__: each for each in (step_title, order, easy_share, is_reversed_beside)},
}
PART: Final = Part("ablation", run, template("ablation", lambda _: _WORDS), plots, is_appendix=True)
