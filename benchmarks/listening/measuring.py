"""The confidence fitted on development scenes, and what it gains on test scenes and in another world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from benchmarks.listening.collecting import SceneRows, collect
from benchmarks.listening.fitting import FEATURE_SETS, Bounds, choose, fit, reached
from benchmarks.listening.report import bootstrap, rule_tree, step_tree, table_of
from benchmarks.quality.annotate import SHIPPED, SceneSet, Setting
from benchmarks.quality.options import Options
from schemas.config_loading import load_config
from schemas.listening import ConfidenceConfig

LISTENING: Final = "captions.listening={crops: [masked, context_1.2]}"
# Coverage aimed at on development scenes, with a yield of at least so many expressions a mask.
AIMS: Final = ((0.55, 2.0), (0.65, 2.0), (0.72, 2.0))
# Each adds one thing to the one before it, or beside it.
_STEPS: Final = (("clip+vote", "clip"), ("clip+listener", "clip"), ("all", "clip"), ("all", "clip+vote"))


@dataclass(frozen=True)
class Listened:
    """What was found, as JSON values, and as tables to print."""

    report: dict[str, Any]
    tables: Sequence[Table]


def measure(
    options: Options, development: SceneSet, asked: Mapping[str, SceneSet], settings: Sequence[str] = ()
) -> Listened:
    """Fit on development scenes, choose bounds for each aim there, and judge all other scenes under them.

    Args:
        options: Where scored candidates are kept, and with how many processes they are made.
        development: Scenes to fit on and to choose by.
        asked: Scenes to report, by name.
        settings: Of all runs, as `--set` takes them.
    """
    setting = Setting("listening", ("filtering.tau=0", LISTENING, *settings), bounds=(SHIPPED,))
    fitted = collect(options, development, setting)
    rows = {name: collect(options, scenes, setting) for name, scenes in asked.items()}
    weights = {name: fit(fitted, names) for name, names in FEATURE_SETS.items()}
    reaches = {name: reached(fitted, each) for name, each in weights.items()}
    report: dict[str, Any] = {
        "scenes": {"development": len(fitted), **{name: len(scenes) for name, scenes in rows.items()}},
        "weights": {name: each.model_dump(exclude_defaults=True) for name, each in weights.items()},
        "aims": [],
    }
    tables: list[Table] = []
    for coverage, least_yield in AIMS:
        rules = {
            name: (each, choose(reaches[name], coverage=coverage, least_yield=least_yield))
            for name, each in weights.items()
        }
        aim = {"coverage": coverage, "yield": least_yield, "bounds": {n: vars(b) for n, (_, b) in rules.items()}}
        for name, scenes in rows.items():
            aim[name], table = _judged(f"{name}, coverage of {coverage} aimed at", scenes, rules)
            tables.append(table)
        report["aims"].append(aim)
    return Listened(report, tables)


def _judged(
    title: str, scenes: Sequence[SceneRows], rules: Mapping[str, tuple[ConfidenceConfig, Bounds]]
) -> tuple[dict[str, Any], Table]:
    """Return the figures of some scenes under each rule, and their table."""
    found = bootstrap(scenes, load_config("tiny").filtering.tau, rules)
    names = ("right", "paper", "preset", *rules)
    steps = (*((name, "preset") for name in rules), ("all", "paper"), *_STEPS)
    figures = {
        "rules": {name: rule_tree(found, name) for name in names},
        "steps": {f"{better} - {worse}": step_tree(found, better, worse) for better, worse in steps},
    }
    return figures, table_of(title, found, names, steps)
