"""`pseudoris evaluate`: how right a run's expressions and masks are, against a truth."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table

from cli import options
from cli.console import facts_table, printable, report, stderr, stdout
from cli.destinations import check_apart
from schemas.errors import ConfigError
from schemas.run import RunHeader
from store.header import read_header, require_header
from store.location import RunLocation

if TYPE_CHECKING:
    from training.evaluation.bootstrap import Estimate
    from training.evaluation.figures import Evaluation
    from training.evaluation.truth import Truth

SYNTHWORLD: Final = "synthworld"


def evaluate(
    out: options.Out,
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            metavar="TRUTH",
            help="synthworld: the truth.json beside SOURCE (or synthworld:FILE), read by an exact oracle. Or an OUT of "
            "`pseudoris import`, joined by key: there a text refers to the object whose human sentences it agrees "
            "with most (token F1), which is an approximation.",
            show_default=False,
        ),
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Read N shards, spread evenly; all by default.", show_default=False)
    ] = None,
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FOLDER", help="Write evaluation.md, .html and .json there.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Hold a run against a truth, from its tables alone: referring accuracy, yield, attributes, masks, intervals."""
    # Only here: other commands need not wait for what this one imports.
    from training.evaluation.evaluating import evaluate_run
    from training.evaluation.figures import as_tree
    from training.evaluation.report import write_report

    location = RunLocation.open(out)
    header = require_header(location)
    destination = None if report_to is None else RunLocation.open(report_to)
    if destination is not None:
        check_apart(location, destination, option="--report")
    with Progress(console=stderr, transient=True) as progress:
        known = open_truth(truth, header, progress)
        task = progress.add_task("judging shards", total=None)
        found = evaluate_run(
            location,
            known,
            sample=sample,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(as_tree(found), ensure_ascii=False))
    else:
        stdout.print(evaluation_view(found))
    if destination is not None:
        report("report", write_report(found, destination), "green")


def open_truth(name: str, header: RunHeader, progress: Progress) -> Truth:
    """Return the truth that `--truth` names.

    Args:
        name: `synthworld`, `synthworld:FILE`, or where an import lives.
        header: Of the run that is evaluated; its SOURCE says where the synthetic world's truth stands.
        progress: Gains a bar while an import is read.

    Raises:
        ConfigError: There is no such truth, or it cannot be used.
        TransientError: Storage failed.
    """
    kind, colon, file = name.partition(":")
    if kind == SYNTHWORLD:
        return _scene_truth(file, None) if colon else _scene_truth(beside(header.source), header)
    from training.evaluation.human_truth import HumanTruth

    if Path(name).is_file():
        raise ConfigError(
            f"--truth {name} is a file: an OUT of `pseudoris import` is needed, or {SYNTHWORLD}:{name} where it is a "
            "truth.json of the synthetic world"
        )
    location = RunLocation.open(name)
    if read_header(location) is None:
        raise ConfigError(
            f"--truth {name!r} is neither `{SYNTHWORLD}`, nor `{SYNTHWORLD}:FILE`, nor a run: {location.root} holds "
            "none. Give an OUT of `pseudoris import`"
        )
    task = progress.add_task("reading the truth", total=None)
    return HumanTruth.read(location, lambda done, total: progress.update(task, completed=done, total=total))


def beside(source: str) -> str:
    """Return where the synthetic world's truth of a SOURCE stands: beside the folder of images."""
    from synthworld.demo import TRUTH_FILE

    parent = source.rstrip("/").rpartition("/")[0]
    return f"{parent}/{TRUTH_FILE}"


def _scene_truth(address: str, header: RunHeader | None) -> Truth:
    from synthworld.truth import SceneTruth

    folder, _, name = address.rpartition("/")
    remedy = f"name the file with --truth {SYNTHWORLD}:FILE; `python -m synthworld.demo FOLDER` writes one"
    if not name or (folder and folder.endswith((":", "/"))):
        raise ConfigError(f"there is no file at {address!r}: {remedy}")
    endpoint_url = None if header is None else header.config.source.endpoint_url
    location = RunLocation.open(folder or str(Path.cwd()), endpoint_url)
    try:
        data = location.read_bytes(name)
    except FileNotFoundError:
        raise ConfigError(f"there is no truth of the synthetic world at {location.uri(name)}: {remedy}") from None
    return SceneTruth.from_json(data, location.uri(name))


def evaluation_view(found: Evaluation) -> RenderableType:
    """Return an evaluation as tables of at most 80 columns; intervals stand below their figures."""
    from training.evaluation.figures import FIGURES, MASK_FIGURES, SET_TITLES, figure_text, image_lines, part_titles
    from training.evaluation.report import caption

    facts = facts_table("evaluation")
    for name, text in image_lines(found).items():
        facts.add_row(name, printable(text))
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
    from training.evaluation.figures import value_text

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
