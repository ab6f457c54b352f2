"""`pseudoris train`: a learner on one or several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from cli import options
from cli.console import facts_table, format_seconds, stdout
from cli.destinations import training_folder
from cli.train_ppt import ppt
from cli.training_views import figure_title, next_view, progress, say_what_is_resumed, stopped

if TYPE_CHECKING:
    from training.learning import FitSummary
    from training.student.training import StudentRequest

app = typer.Typer(help="Train a learner on the expressions of runs.", no_args_is_help=True)
app.command("ppt")(ppt)


@app.command("student")
def student(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs, imports among them; folders or urls.", show_default=False),
    ],
    out: Annotated[
        str, typer.Option("--out", help="Local folder of the training: checkpoint, logs, summary.", show_default=False)
    ],
    val: Annotated[
        str | None,
        typer.Option("--val", help="Run or import whose kept expressions are asked at the end.", show_default=False),
    ] = None,
    human: Annotated[
        str | None,
        typer.Option(
            "--human",
            help="Import to mix in, by data.human_fraction and data.human_share.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="tiny (embedded towers, CPU) or vit-b-16.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over everything, e.g. model.width=96.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="In all; the warm-up is at most a tenth of them.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Steps for so many passes over the masks.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="As --set training.seed=….", show_default=False)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that stands in --out; begin where none does.")
    ] = False,
) -> None:
    """Train the student, a supervised model of referring image segmentation, on runs; ask it held-out expressions."""
    # Only here: other commands need not wait for what this one imports.
    from training.student.config import load_student_config
    from training.student.training import StudentRequest

    folder = training_folder(out, filter(None, (*runs, val, human)))
    words = [*(assignments or ())]
    words += [f"training.seed={seed}"] if seed is not None else []
    if steps is not None and epochs is not None:
        raise typer.BadParameter("give --steps or --epochs, not both")
    config = load_student_config(preset, config_file, words)
    if steps is not None:
        config = config.model_copy(update={"training": config.training.with_steps(steps)})
    request = StudentRequest(config, runs, folder, val=val, human=human, num_epochs=epochs, is_resuming=resume)
    raise typer.Exit(_run(request))


def _run(request: StudentRequest) -> int:
    from training.learning import open_fabric
    from training.student.training import train_student

    fabric = open_fabric(request.config.training)
    if fabric.is_global_zero:
        say_what_is_resumed(request.out, is_resuming=request.is_resuming)
    try:
        with progress(is_shown=fabric.is_global_zero) as on_step:
            _, summary = train_student(request, fabric, on_step=on_step)
    except KeyboardInterrupt:
        return stopped(request.out)
    if fabric.is_global_zero:
        stdout.print(summary_view(summary))
        stdout.print(next_view(request.out), soft_wrap=True)
    return 0


def summary_view(summary: FitSummary) -> RenderableType:
    """Return how a training ended as a table."""
    table = facts_table("trained")
    table.add_row("steps", f"{summary.num_steps:,}, {summary.num_steps_now:,} of them now")
    validating = f", {format_seconds(summary.validation_s)} of it validating" if summary.figures else ""
    table.add_row("time", f"{format_seconds(summary.wall_s)}{validating}")
    table.add_row("parameters", f"{summary.num_parameters:,} trained")
    for name, value in summary.figures.items():
        table.add_row(figure_title(name), f"{value:.3f}")
    return table
