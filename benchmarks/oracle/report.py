"""What an evaluation says: figures with intervals as JSON values and as a printed table."""

from __future__ import annotations

from rich.table import Table

from benchmarks.oracle.evaluation import TRUTH_SUFFIX, EvaluationOptions
from training.evaluation.bootstrap import Estimate, ImageBootstrap
from training.evaluation.figures import figure_text

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
