"""Measure the annotation of scenes against their truth: `python -m benchmarks.oracle [--json F] [--scenes N]`.

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

from benchmarks.oracle.evaluation import EvaluationOptions, evaluate
from benchmarks.oracle.report import figures, report_table
from schemas.config_loading import load_config
from synthworld.scenes import Split
from training.evaluation.bootstrap import ImageBootstrap


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
