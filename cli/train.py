"""`pseudoris train`: a learner on one or several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from pseudoris.cli import options
from pseudoris.cli.console import facts_table, format_seconds, stdout
from pseudoris.cli.options import training_folder
from pseudoris.cli.train_ppt import ppt
from pseudoris.cli.training_views import figure_title, next_view, note_new_training, stopped, training_bar

if TYPE_CHECKING:
    from pseudoris.training.chooser.chooser_training import StudentRequest
    from pseudoris.training.learning import FitSummary

app = typer.Typer(help="Train a model on runs: the student, or PPT.", no_args_is_help=True)
app.command("ppt")(ppt)


@app.command("student")
def student(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders or urls of runs or imports.")],
    out: Annotated[str, typer.Option("--out", help="Local folder for the checkpoint, logs and summary.")],
    val: Annotated[str | None, typer.Option("--val", help="Run or import to evaluate the model on at the end.")] = None,
    human: Annotated[
        str | None,
        typer.Option(
            "--human", help="Import of human annotation to mix in; see data.human_fraction and data.human_share."
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="tiny (embedded towers, CPU) or vit-b-16.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set one key, e.g. model.width=96. Overrides --config. Can be repeated."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Total steps; the warm-up is at most a tenth of them.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the masks, instead of --steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same as --set training.seed=….")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --out; start one if there is none.")
    ] = False,
    plugins: options.Plugins = None,
) -> None:
    """Train a student, a supervised model of referring image segmentation, on runs.

    With `--val` it is evaluated on held-out expressions at the end.
    """
    # Only here: other commands need not wait for what this one imports.
    from pseudoris.training.chooser.chooser_config import load_chooser_config
    from pseudoris.training.chooser.chooser_training import StudentRequest

    options.load_plugins(plugins)
    folder = training_folder(out, filter(None, (*runs, val, human)))
    words = [*(assignments or ())]
    words += [f"training.seed={seed}"] if seed is not None else []
    if steps is not None and epochs is not None:
        raise typer.BadParameter("Give --steps or --epochs, not both.")
    config = load_chooser_config(preset, config_file, words)
    if steps is not None:
        config = config.model_copy(update={"training": config.training.with_steps(steps)})
    request = StudentRequest(config, runs, folder, val=val, human=human, num_epochs=epochs, is_resuming=resume)
    raise typer.Exit(_run(request))


def _run(request: StudentRequest) -> int:
    from pseudoris.training.chooser.chooser_training import train_student
    from pseudoris.training.learning import open_fabric

    fabric = open_fabric(request.config.training)
    if fabric.is_global_zero:
        note_new_training(request.out, is_resuming=request.is_resuming)
    try:
        with training_bar(is_shown=fabric.is_global_zero) as shown:
            _, summary = train_student(request, fabric, on_step=shown.on_step, on_image=shown.on_image)
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
    validating = f", of which validation {format_seconds(summary.validation_s)}" if summary.figures else ""
    table.add_row("time", f"{format_seconds(summary.wall_s)}{validating}")
    table.add_row("parameters", f"{summary.num_parameters:,} trained")
    for name, value in summary.figures.items():
        table.add_row(figure_title(name), f"{value:.3f}")
    return table
