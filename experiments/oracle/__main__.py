"""Measure the annotation of scenes against their truth: `python -m experiments.oracle [--json F] [--scenes N]`.

The stages are those of a run. End to end they start from SAM's masks; with the suffix `_truth_masks` from the truth's.
A caption that cannot be parsed and a mask that is no object's (best IoU < 0.5, one-to-one) count as wrong. Thresholds
are chosen with `--split development --tau 1.0 --tau 1.1 …` and reported once with `--split test`, the default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments.oracle.scene_counts import TRUTH_SUFFIX, EvaluationOptions, evaluate
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.bootstrap import Estimate, ImageBootstrap
from pseudoris.training.evaluation.figures import figure_text

HEADLINE = (
    "mask_recall_75",
    "accuracy_beam",
    "accuracy_nucleus",
    "accuracy_distinctive",
    "accuracy_filtered",
    "yield_filtered",
    "coverage_filtered",
)
STEPS = (
    ("accuracy_distinctive", "accuracy_beam"),
    ("accuracy_distinctive", "accuracy_nucleus"),
    ("accuracy_filtered", "accuracy_distinctive"),
)


def figures(bootstrap: ImageBootstrap) -> dict[str, float | list[float]]:
    """Return each figure, its 95 % interval under `<name>_interval`, and the paired steps, as JSON values."""
    report: dict[str, float | list[float]] = {}
    for name in bootstrap.names:
        _add(report, name, bootstrap.ratio(name))
    for suffix in ("", TRUTH_SUFFIX):
        for better, worse in STEPS:
            step = bootstrap.difference(better + suffix, worse + suffix)
            _add(report, f"{better}_minus_{worse.removeprefix('accuracy_')}{suffix}", step)
    return report


def _add(report: dict[str, float | list[float]], name: str, estimate: Estimate) -> None:
    """One figure and its interval."""
    report[name] = estimate.value
    report[f"{name}_interval"] = [estimate.low, estimate.high]


def report_table(bootstrap: ImageBootstrap, options: EvaluationOptions) -> Table:
    """Return the printed table: end to end beside the truth's masks, then the paired steps."""
    table = Table(title=f"{options.num_scenes} {options.split} scenes, 95 % intervals over scenes")
    table.add_column("figure")
    table.add_column("SAM's masks", justify="right")
    table.add_column("truth's masks", justify="right")
    further = [n for n in bootstrap.names if n not in HEADLINE and not n.endswith(TRUTH_SUFFIX)]
    for name in (*HEADLINE, *further):
        table.add_row(name, *(_shown(bootstrap, name + suffix) for suffix in ("", TRUTH_SUFFIX)))
    table.add_section()
    for better, worse in STEPS:
        steps = [bootstrap.difference(better + suffix, worse + suffix) for suffix in ("", TRUTH_SUFFIX)]
        table.add_row(
            f"{better} − {worse.removeprefix('accuracy_')}", *(figure_text(step, 3, sign="+") for step in steps)
        )
    return table


def _shown(bootstrap: ImageBootstrap, name: str) -> str:
    """A figure's cell, empty where it is not counted."""
    return figure_text(bootstrap.ratio(name), 3) if name in bootstrap.names else ""


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 200,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as filtering.tau=1.1.")] = None,
    taus: Annotated[list[float] | None, typer.Option("--tau", help="Count at this threshold too.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
) -> None:
    """Print how accurate the annotation of fresh scenes is."""
    config = load_config("tiny", None, settings or [])
    options = EvaluationOptions(split=split, num_scenes=scenes, processes=processes, taus=tuple(taus or ()))
    bootstrap = ImageBootstrap(evaluate(config, options, console=Console(stderr=True)))
    Console(width=120).print(report_table(bootstrap, options))
    if json_path is not None:
        json_path.write_text(json.dumps(figures(bootstrap), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
