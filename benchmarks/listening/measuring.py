"""The confidence fitted on development scenes, and what it gains on test scenes and in another world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.table import Table

from benchmarks.listening.collecting import COMPOSERS, SceneRows, collect
from benchmarks.listening.labels import measure_labels
from benchmarks.listening.redrawing import BASE, NUM_SCENES, SIMILAR, measure_redrawn
from benchmarks.listening.report import bootstrap, rule_tree, step_tree, table_of
from benchmarks.listening.rules import FEATURE_SETS, Rule
from benchmarks.listening.trying import measure_tried
from benchmarks.listening.weighing import measure_weights
from benchmarks.quality.annotate import LISTENED, SceneSet
from benchmarks.quality.options import Options
from schemas.config_loading import load_config
from training.calibration.fitting import choose, fit, reached

# Coverage aimed at on development scenes, with a yield of at least so many expressions a mask.
AIMS: Final = ((0.55, 2.0), (0.65, 2.0), (0.72, 2.0), (0.8, 2.0))
# At which one what was tried beside is compared, and labels are counted.
COMPARED: Final = (0.65, 2.0)
# The features that are weighed, and the composer beside them.
RULES: Final[Mapping[str, tuple[str, str | None]]] = {
    **{name: (name, None) for name in FEATURE_SETS},
    **{f"all+{name}": ("all", name) for name in COMPOSERS if name != "weighing draws"},
    # Neither listens: the cheapest of all that weighs.
    "clip+vote+weighing draws": ("clip+vote", "weighing draws"),
}
# Each adds one thing to the one before it, or beside it.
_STEPS: Final = (
    ("clip+vote", "clip"),
    ("clip+listener", "clip"),
    ("all", "clip"),
    ("all", "clip+vote"),
    ("all+composer", "all"),
    ("all+weighing composer", "all+composer"),
    ("clip+vote+weighing draws", "clip+vote"),
    ("all+weighing composer", "clip+vote+weighing draws"),
)


@dataclass(frozen=True)
class Listened:
    """What was found, as JSON values, and as tables to print."""

    report: dict[str, Any]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Collected:
    """Judged scenes.

    Attributes:
        development: To fit on and to choose by.
        asked: To report, by name; the first are those on which labels and what was tried beside are told.
        similar: The first of these, drawn anew with `SIMILAR`.
    """

    development: Sequence[SceneRows]
    asked: Mapping[str, Sequence[SceneRows]]
    similar: Sequence[SceneRows]


def measure(
    options: Options, development: SceneSet, asked: Mapping[str, SceneSet], settings: Sequence[str] = ()
) -> Listened:
    """Fit on development scenes, choose bounds for each aim there, and judge all other scenes under them.

    Args:
        options: Where scored candidates are kept, and with how many processes they are made.
        development: Scenes to fit on and to choose by.
        asked: Scenes to report, by name; what was tried beside is told on the first.
        settings: Of all runs, as `--set` takes them.
    """
    setting = replace(LISTENED, assignments=(*LISTENED.assignments, *settings))
    again = replace(setting, name="listening-similar", assignments=(*setting.assignments, SIMILAR))
    rows = {name: collect(options, scenes, setting) for name, scenes in asked.items()}
    first = next(iter(asked.values()))
    similar = collect(options, replace(first, count=min(NUM_SCENES, first.count)), again)
    found = told(Collected(collect(options, development, setting), rows, similar))
    # The last of three would add a minute, and nothing that the second does not show.
    told_on = dict(list(asked.items())[:2])
    found.report["composer_weights"] = measure_weights(options, development, told_on, setting)
    return found


def told(collected: Collected) -> Listened:
    """Return all that the collected candidates tell."""
    fitted, rows = collected.development, collected.asked
    weights = {name: fit(fitted, names) for name, names in FEATURE_SETS.items()}
    reaches = {
        name: reached([scene.beside_composer(composer) for scene in fitted], weights[names])
        for name, (names, composer) in RULES.items()
    }
    report: dict[str, Any] = {
        "scenes": {"development": len(fitted), **{name: len(scenes) for name, scenes in rows.items()}},
        "weights": {name: each.model_dump(exclude_defaults=True) for name, each in weights.items()},
        "aims": [],
    }
    tables: list[Table] = []
    for coverage, least_yield in AIMS:
        chosen = {name: choose(each, coverage=coverage, least_yield=least_yield) for name, each in reaches.items()}
        rules = {name: Rule(weights[names], chosen[name].bounds, composer) for name, (names, composer) in RULES.items()}
        aim: dict[str, Any] = {"coverage": coverage, "yield": least_yield}
        aim["bounds"] = {name: rule.as_json() for name, rule in rules.items()}
        aim["development"] = {name: each.as_json() for name, each in chosen.items()}
        for name, scenes in rows.items():
            aim[name], table = _judged(f"{name}, coverage of {coverage} aimed at", scenes, rules)
            tables.append(table)
        report["aims"].append(aim)
    first = next(iter(rows.values()))
    report["tried"] = measure_tried(fitted, first, COMPARED)
    bounds = choose(reaches[BASE], coverage=COMPARED[0], least_yield=COMPARED[1]).bounds
    rule = Rule(weights[BASE], bounds)
    report["redrawn"] = measure_redrawn(first, collected.similar, rule, load_config("tiny").filtering.tau)
    report["labels"] = measure_labels(fitted, rows, COMPARED)
    return Listened(report, tables)


def _judged(title: str, scenes: Sequence[SceneRows], rules: Mapping[str, Rule]) -> tuple[dict[str, Any], Table]:
    """Return the figures of some scenes under each rule, and their table."""
    found = bootstrap(scenes, load_config("tiny").filtering.tau, rules)
    names = ("right", "paper", "preset", *rules)
    steps = (*((name, "preset") for name in rules), ("all", "paper"), *_STEPS)
    figures = {
        "rules": {name: rule_tree(found, name) for name in names},
        "steps": {f"{better} - {worse}": step_tree(found, better, worse) for better, worse in steps},
    }
    return figures, table_of(title, found, names, steps)
