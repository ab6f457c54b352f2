"""Measure composed expressions on scenes: `python -m benchmarks.composing [--json F] [--scenes N] [--split test]`.

Right is an expression that, read by the oracle, means its targets' objects and nothing else. Candidates are made once
by the stages of a run and kept in `--cache`, so that rules are tried in seconds: settings are chosen with
`--split development --try composing.min_noun=0.9 …` and reported once with `--split test`, the default.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.composing.measuring import AFTER, BEFORE, CANDIDATES, COMPOSED, KINDS, WORDS, Measured, as_tree, measure
from benchmarks.quality.annotate import SceneSet, annotated_scenes
from benchmarks.quality.options import Options
from benchmarks.quality.tables import Figure, as_json, cell
from schemas.composing import ComposingConfig
from schemas.config_loading import load_config
from synthworld.scenes import Split

_ALL_KINDS = f"composing.kinds=[{','.join(KINDS)}]"
_DEFAULTS = "defaults"


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 400,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the run.")] = None,
    tries: Annotated[list[str] | None, typer.Option("--try", help="Settings of the composer, apart by commas.")] = None,
    cache: Annotated[Path, typer.Option(help="Where candidates are kept.")] = Path("bench-out/composing"),
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
) -> None:
    """Print accuracy by kind, and coverage before and after."""
    scene_set = SceneSet(split, scenes)
    setting = replace(CANDIDATES, assignments=tuple(settings or ()))
    images = annotated_scenes(Options(cache, processes=processes), scene_set, setting)
    found = {}
    for name in (_DEFAULTS, *(tries or ())):
        changes = [] if name == _DEFAULTS else name.split(",")
        config = load_config("tiny", None, [_ALL_KINDS, *changes]).composing or ComposingConfig()
        found[name] = measure(scene_set.all(), images, config)
    Console(width=140).print(_table(found, f"{scenes} {split} scenes"))
    if json_path is not None:
        tree = {
            "split": str(split),
            "scenes": scenes,
            "settings": {name: as_tree(each) for name, each in found.items()},
        }
        json_path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _table(found: dict[str, Measured], title: str) -> Table:
    table = Table(title=title)
    table.add_column("figure")
    for name in found:
        table.add_column(name, justify="right")
    rows = {
        "kept by the filter: accuracy": f"{BEFORE}.accuracy",
        "kept by the filter: coverage": f"{BEFORE}.coverage",
        "kept by the filter: a mask": f"{BEFORE}.yield",
        "composed of one mask: accuracy": f"{COMPOSED}.accuracy",
        "composed of one mask: coverage": f"{COMPOSED}.coverage",
        "the same evidence without places: accuracy": f"{WORDS}.accuracy",
        "the same evidence without places: coverage": f"{WORDS}.coverage",
        "composed − kept: accuracy": f"{COMPOSED} - {BEFORE}.accuracy",
        **{f"composed, {kind}: accuracy": f"kind.{kind}" for kind in KINDS},
        "both: accuracy": f"{AFTER}.accuracy",
        "both: coverage": f"{AFTER}.coverage",
        "both: a mask": f"{AFTER}.yield",
        "both − kept: coverage": f"{AFTER} - {BEFORE}.coverage",
    }
    for label, name in rows.items():
        table.add_row(label, *(cell(_figure(each, name)) for each in found.values()))
    for kind in (*KINDS, BEFORE, "objects"):
        table.add_row(f"number: {kind}", *(f"{each.counts[kind]:,}" for each in found.values()))
    table.add_row("CPU milliseconds an image", *(f"{1000 * each.seconds_per_image:.1f}" for each in found.values()))
    return table


def _figure(measured: Measured, name: str) -> Figure | None:
    estimate = measured.estimates.get(name)
    return None if estimate is None else as_json(estimate)


if __name__ == "__main__":
    typer.run(main)
