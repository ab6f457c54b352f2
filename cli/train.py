"""`pseudoris train`: trains PPT (curriculum point prompting) or a student on runs, and shows steps and figures.

Called by `main`; `evidence/experiments/segmenter` uses the bar and the view. With several processes only the first one
prints. After an interrupt the last checkpoint stays, and `--resume` continues from it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from pseudoris.cli import console, formats, options
from pseudoris.cli.options import argument, option, training_folder
from pseudoris.cli.progress import INTERRUPTED, Bar, bar

if TYPE_CHECKING:
    from pseudoris.training.learning import FitSummary, StepReport
    from pseudoris.training.ppt.curriculum import Round
    from pseudoris.training.ppt.ppt_config import Source
    from pseudoris.training.ppt.ppt_training import PptSummary

_Runs = list[str] | None
# This text is printed if no threshold was fitted. It says what `Choice.is_absent` does then.
_NOT_FITTED: Final = (
    'Without --val no threshold for "not here" is fitted: predict says it only if it is likelier than every mask. '
    "Give --val a run of development images with absences."
)
Seed = Annotated[int | None, option("Same as --set training.seed=….", min=0)]
Resume = Annotated[bool, option("--resume", "Continue the training in --out; start one if there is none.")]

app = typer.Typer(help="Train a model on runs: the student, or PPT.", no_args_is_help=True)


@app.command("ppt")
def ppt(
    out: Annotated[str, option("--out", "Local folder for the training. Each round has a folder in it.")],
    d_sem: Annotated[_Runs, option("--d-sem", "Run of `ppt objects`.")] = None,
    d_ref: Annotated[_Runs, option("--d-ref", "Run of `ppt compose`.")] = None,
    h: Annotated[_Runs, option("--h", "Run of `ppt pairs`.")] = None,
    annotated: Annotated[_Runs, option("--annotated", "Any other run or import. It is added to H_sem.")] = None,
    val: Annotated[str | None, option("--val", "Run or import to evaluate the model on after each phase.")] = None,
    preset: Annotated[str, option("--preset", "tiny (embedded models, CPU) or paper.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[list[str] | None, options.set_one("curriculum.epochs_factor=0.5")] = None,
    seed: Seed = None,
    resume: Resume = False,
    plugins: options.Plugins = None,
) -> None:
    """Train PPT, weakly supervised, in phases.

    Give at least one of --d-sem, --d-ref, --h and --annotated. Each can be repeated. A phase uses
    only the data that is given.
    """
    from pseudoris.training.learning import open_fabric
    from pseudoris.training.ppt.curriculum import SourceRuns
    from pseudoris.training.ppt.ppt_config import load_ppt_config
    from pseudoris.training.ppt.ppt_training import PptRequest, Reports, train_ppt

    options.load_plugins(plugins)
    runs = SourceRuns(tuple(d_sem or ()), tuple(d_ref or ()), tuple(h or ()), tuple(annotated or ()))
    folder = training_folder(out, filter(None, (*runs.d_sem, *runs.d_ref, *runs.h, *runs.annotated, val)))
    config = load_ppt_config(preset, config_file, options.words(assignments, {"training.seed": seed}))
    fabric = open_fabric(config.training)

    def on_select(each: Round, decided: int, pairs: int) -> None:
        console.report("select", f"{each.name}: {decided:,} of {pairs:,} undecided pairs now have a referent", "green")

    def train(shown: TrainingBar) -> RenderableType:
        request = PptRequest(config, runs, folder, val=val, is_resuming=resume)
        _, summary = train_ppt(request, fabric, Reports(_show_plan, shown.on_step, on_select))
        sizes = config.generator
        blocks = f"{len(sizes.image_blocks)} stages, {sizes.num_queries} queries of {sizes.num_points} points"
        table = _trained(summary, formats.format_seconds(summary.wall_s), f": width {sizes.width}, {blocks}")
        for phase, figures in summary.phases.items():
            table.add_row(phase, _figures_text(figures))
        return table

    raise typer.Exit(_run(train, folder, is_first=fabric.is_global_zero, is_resuming=resume))


@app.command("student")
def student(
    runs: Annotated[list[str], argument("RUN...", "Folders or urls of runs or imports.")],
    out: Annotated[str, option("--out", "Local folder for the checkpoint, logs and summary.")],
    val: Annotated[
        str | None,
        option(
            "--val", 'Run or import to evaluate the model on at the end, and, with data.none, to choose "not here".'
        ),
    ] = None,
    human: Annotated[
        str | None,
        option("--human", "Import of human annotation to mix in; see data.human_fraction and data.human_share."),
    ] = None,
    preset: Annotated[str, option("--preset", "tiny (embedded towers, CPU) or vit-b-16.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[list[str] | None, options.set_one("model.width=96")] = None,
    steps: Annotated[int | None, option("Total steps; the warm-up is at most a tenth of them.", min=1)] = None,
    epochs: Annotated[int | None, option("Passes over the masks, instead of --steps.", min=1)] = None,
    seed: Seed = None,
    resume: Resume = False,
    plugins: options.Plugins = None,
) -> None:
    """Train a student, a supervised model of referring image segmentation, on runs.

    With `--val` it is evaluated on held-out expressions at the end.
    """
    from pseudoris.training.chooser.chooser_config import load_chooser_config
    from pseudoris.training.chooser.chooser_training import StudentRequest, train_student
    from pseudoris.training.learning import open_fabric

    options.load_plugins(plugins)
    folder = training_folder(out, filter(None, (*runs, val, human)))
    if steps is not None and epochs is not None:
        raise typer.BadParameter("Give --steps or --epochs, not both.")
    config = load_chooser_config(preset, config_file, options.words(assignments, {"training.seed": seed}))
    if steps is not None:
        config = config.model_copy(update={"training": config.training.with_steps(steps)})
    fabric = open_fabric(config.training)
    if config.answers_none and val is None and fabric.is_global_zero:
        console.report("note", _NOT_FITTED, "yellow")

    def train(shown: TrainingBar) -> RenderableType:
        request = StudentRequest(config, runs, folder, val=val, human=human, num_epochs=epochs, is_resuming=resume)
        _, summary = train_student(request, fabric, on_step=shown.on_step, on_image=shown.on_image)
        return training_view(summary)

    raise typer.Exit(_run(train, folder, is_first=fabric.is_global_zero, is_resuming=resume))


def _run(train: Callable[[TrainingBar], RenderableType], out: Path, *, is_first: bool, is_resuming: bool) -> int:
    """Train, and show what `train` returns; only the first process says anything. Return the exit code."""
    from pseudoris.training.learning import TrainingFolder

    # A folder without a training is no error: a script that restarts after a kill always passes `--resume`. It is
    # reported, because a mistyped folder looks the same.
    if is_first and is_resuming and not TrainingFolder(out).is_begun:
        console.report("note", f"{out} has no training to resume. A new one begins.", "yellow")
    try:
        with training_bar(is_shown=is_first) as shown:
            view = train(shown)
    except KeyboardInterrupt:
        if TrainingFolder(out).is_begun:
            console.report("stopped", f"The last checkpoint is in {out}. Use --resume to continue from it.", "yellow")
        else:
            console.report_stopped("interrupted before the first step: nothing is kept")
        return INTERRUPTED
    if is_first:
        console.stdout.print(view)
        ask = formats.command("predict", "IMAGE", "the small star on the left", "--model", str(out))
        then = {"ask": ask, "curves": shlex.join(["tensorboard", "--logdir", str(out)])}
        console.stdout.print(formats.path_lines("next", then), soft_wrap=True)
    return 0


class TrainingBar:
    """Shows images that are prepared and steps on a bar, and validations as lines."""

    def __init__(self, show: Bar) -> None:
        self._show = show

    def on_image(self, done: int, total: int) -> None:
        """Show how many of all images have their masks."""
        self._show(done, total, "proposing masks")

    def on_step(self, step: StepReport) -> None:
        """Show a step, or the figures of a validation."""
        loss = step.values.get("train/loss")
        self._show(step.step, step.num_steps, "validating" if loss is None else f"training, loss {loss:.3f}")
        if loss is None and step.values:
            self._show.print(f"step {step.step}: {_figures_text(step.values)}")


@contextmanager
def training_bar(*, is_shown: bool) -> Iterator[TrainingBar]:
    """Give the bar of a training; only the first process shows it."""
    amount = (lambda done, total: f"{done:,} of {total:,}") if is_shown else None
    with bar("reading the runs", amount=amount, console=console.stderr if is_shown else Console(quiet=True)) as show:
        yield TrainingBar(show)


def _show_plan(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> None:
    from pseudoris.training.ppt.curriculum import describe

    phases = describe(rounds, num_pairs)
    rows = ((name, f"{data}: {pairs:,} pairs per epoch, {steps:,} steps") for name, data, pairs, steps in phases)
    console.stdout.print(formats.facts_table("curriculum", rows))


def training_view(summary: FitSummary) -> RenderableType:
    """Return how a training of one model ended as a table."""
    validating = f", of which validation {formats.format_seconds(summary.validation_s)}" if summary.figures else ""
    table = _trained(summary, f"{formats.format_seconds(summary.wall_s)}{validating}")
    for name, value in summary.figures.items():
        table.add_row(_figure_title(name), f"{value:.3f}")
    return table


def _trained(summary: FitSummary | PptSummary, time: str, sizes: str = "") -> Table:
    kinds = dict.fromkeys(note.partition(":")[0] for note in summary.circularity)
    first = [("validation", f"{kind}: in full in summary.json (circularity)") for kind in kinds]
    steps = ("steps", f"{summary.num_steps:,}, {summary.num_steps_now:,} of them now")
    parameters = ("parameters", f"{summary.num_parameters:,} trained{sizes}")
    return formats.facts_table("trained", [*first, steps, ("time", time), parameters])


def _figures_text(figures: Mapping[str, float]) -> str:
    named = {name.removeprefix("val/"): value for name, value in figures.items()}
    return ", ".join(f"{_figure_title(name)} {value:.3f}" for name, value in named.items())


def _figure_title(name: str) -> str:
    """Return a figure's name as papers write it: mIoU, oIoU, P@0.5."""
    if name.startswith("p") and name[1:].isdigit():
        return f"P@{int(name[1:]) / 100:.1f}"
    titles = {"miou": "mIoU", "oiou": "oIoU", "giou": "gIoU", "n_acc": "N-acc.", "t_acc": "T-acc."}
    return titles.get(name, name)
