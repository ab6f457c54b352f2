"""Fit the confidence on development scenes and tell its gain on test scenes: `python -m benchmarks.listening`.

The stages are those of a run, over SAM's masks, with the listener on and every candidate scored. Weights of each set of
features, and the bounds for each coverage aimed at, come from development scenes; test scenes are reported once, then
those of another world under the same weights and bounds. The scored candidates are kept in `--cache`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks.listening.collecting import collect
from benchmarks.listening.fitting import FEATURE_SETS, Bounds, choose, fit, reached
from benchmarks.listening.report import bootstrap, rule_tree, step_tree, table_of
from benchmarks.quality.annotate import SHIPPED, SceneSet, Setting
from benchmarks.quality.options import Options
from schemas.config_loading import load_config
from schemas.listening import ConfidenceConfig
from synthworld.scenes import Split

LISTENING: Final = "captions.listening={crops: [masked, context_1.2]}"
# Coverage aimed at on development scenes, with a yield of at least so many expressions a mask.
AIMS: Final = ((0.55, 2.0), (0.65, 2.0), (0.72, 2.0))
# Each adds one thing to the one before it, or beside it.
_STEPS: Final = (("clip+vote", "clip"), ("clip+listener", "clip"), ("all", "clip"), ("all", "clip+vote"))


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    cache: Annotated[Path, typer.Option(help="Where scored candidates are kept.")] = Path("bench-out/listening"),
    development: Annotated[int, typer.Option(min=2, help="Scenes to fit on.")] = 200,
    test: Annotated[int, typer.Option(min=2, help="Scenes to report.")] = 300,
    other_world: Annotated[str, typer.Option(help="World of the last part.")] = "second",
    other_test: Annotated[int, typer.Option(min=2, help="Scenes of it.")] = 150,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of all runs.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
) -> None:
    """Print accuracy, yield and coverage of each rule, with paired differences."""
    setting = Setting("listening", ("filtering.tau=0", LISTENING, *(settings or [])), bounds=(SHIPPED,))
    sets = {
        "development": SceneSet(Split.DEVELOPMENT, development),
        "test": SceneSet(Split.TEST, test),
        other_world: SceneSet(Split.TEST, other_test, other_world),
    }
    tau = load_config("tiny").filtering.tau
    options = Options(cache, processes=processes)
    rows = {name: collect(options, scenes, setting) for name, scenes in sets.items()}
    weights = {name: fit(rows["development"], names) for name, names in FEATURE_SETS.items()}
    reaches = {name: reached(rows["development"], each) for name, each in weights.items()}
    report: dict[str, Any] = {
        "scenes": {name: len(scenes) for name, scenes in rows.items()},
        "weights": {name: each.model_dump(exclude_defaults=True) for name, each in weights.items()},
        "aims": [],
    }
    for coverage, least_yield in AIMS:
        rules = {
            name: (each, choose(reaches[name], coverage=coverage, least_yield=least_yield))
            for name, each in weights.items()
        }
        aim = {"coverage": coverage, "yield": least_yield, "bounds": {n: vars(b) for n, (_, b) in rules.items()}}
        for world in ("test", other_world):
            aim[world] = _judged(f"{world}, coverage of {coverage} aimed at", rows[world], tau, rules)
        report["aims"].append(aim)
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _judged(
    title: str, scenes: list[Any], tau: float, rules: dict[str, tuple[ConfidenceConfig, Bounds]]
) -> dict[str, Any]:
    """Print a world's table and return its figures."""
    found = bootstrap(scenes, tau, rules)
    names = ("right", "paper", "preset", *rules)
    steps = (*((name, "preset") for name in rules), ("all", "paper"), *_STEPS)
    Console(width=130).print(table_of(title, found, names, steps))
    return {
        "rules": {name: rule_tree(found, name) for name in names},
        "steps": {f"{better} - {worse}": step_tree(found, better, worse) for better, worse in steps},
    }


if __name__ == "__main__":
    typer.run(main)
