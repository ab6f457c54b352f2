"""`pseudoris evaluate`: how right a run's expressions and masks are, against a truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table

from pseudoris.cli import options
from pseudoris.cli.console import echo_json, facts_table, report, stderr, stdout
from pseudoris.cli.options import check_apart
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header

if TYPE_CHECKING:
    from pseudoris.training.evaluation.bootstrap import Estimate
    from pseudoris.training.evaluation.figures import Evaluation


def evaluate(
    out: options.Out,
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            metavar="TRUTH",
            help="synthworld (the truth.json beside SOURCE), synthworld:FILE, or the OUT of `pseudoris import`. The "
            "synthetic world is judged exactly. An import is joined by image key and judged approximately: a "
            "text refers to the object whose human sentences are most similar to it (token F1).",
            show_default=False,
        ),
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Read N shards, spread evenly. Default: all.", show_default=False)
    ] = None,
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FOLDER", help="Folder for evaluation.md, .html and .json.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare a run with a truth: accuracy, yield, coverage and masks, with intervals.

    It reads the tables only; no model runs.
    """
    # Only here: other commands need not wait for what this one imports.
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.evaluation.evaluation_report import write_report
    from pseudoris.training.evaluation.figures import as_tree
    from pseudoris.training.evaluation.run_evaluation import evaluate_run
    from pseudoris.training.evaluation.truth import open_truth

    location = RunLocation.open_to_read(out)
    header = require_header(location)
    destination = None if report_to is None else RunLocation.open(report_to)
    if destination is not None:
        check_apart(location, destination, option="--report")
    with Progress(console=stderr, transient=True) as progress:
        known = open_truth(truth, header, SceneTruth, truth_bar(progress))
        task = progress.add_task("judging shards", total=None)
        found = evaluate_run(
            location,
            known,
            sample=sample,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        echo_json(as_tree(found))
    else:
        stdout.print(evaluation_view(found))
    if destination is not None:
        report("report", write_report(found, destination), "green")


def truth_bar(progress: Progress) -> Callable[[int, int], None]:
    """Return what shows how far the reading of a truth is; nothing shows where it is one file."""
    task = progress.add_task("reading the truth", total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def evaluation_view(found: Evaluation) -> RenderableType:
    """Return an evaluation as tables of at most 80 columns; intervals stand below their figures."""
    from pseudoris.training.evaluation.evaluation_report import caption
    from pseudoris.training.evaluation.figures import (
        FIGURES,
        MASK_FIGURES,
        SET_TITLES,
        figure_text,
        image_lines,
        part_titles,
    )

    facts = facts_table("evaluation")
    for name, text in image_lines(found).items():
        facts.add_row(name, text)
    expressions = _table("expressions", ("", *SET_TITLES.values()))
    differences = _table("paired differences", ("", *found.differences))
    for name, figure in FIGURES.items():
        sets = (found.sets[each][name] for each in SET_TITLES)
        expressions.add_row(figure.title, *(_cell(each, figure.digits) for each in sets))
        steps = (step[name] for step in found.differences.values())
        differences.add_row(figure.title, *(figure_text(each, figure.digits, sign="+") for each in steps))
    masks = _table("masks", ("", ""))
    for name, figure in MASK_FIGURES.items():
        masks.add_row(figure.title, figure_text(found.mask_quality[name], figure.digits))
    targets = _table("kept expressions by their target", ("", "referring accuracy", "expressions"))
    for title, (_, part) in part_titles(found).items():
        targets.add_row(title, figure_text(part.accuracy, 3), f"{part.expressions:,}")
    notes = [line for note in found.notes for line in ("", note)]
    return Group(facts, "", expressions, "", differences, "", masks, "", targets, *notes, "", caption(found))


def _cell(estimate: Estimate, digits: int) -> str:
    """Return a figure above its interval, which has a digit less: six columns fit a terminal so."""
    from pseudoris.training.evaluation.figures import value_text

    value = value_text(estimate, digits)
    if not math.isfinite(estimate.low):
        return value
    fewer = digits - 1
    return f"{value}\n{estimate.low:.{fewer}f}–{estimate.high:.{fewer}f}"


def _table(title: str, headers: tuple[str, ...]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), min_width=len(title)
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table
