"""`pseudoris train ppt`: PPT through its curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from pseudoris.cli import options
from pseudoris.cli.console import facts_table, format_seconds, report, stdout
from pseudoris.cli.options import training_folder
from pseudoris.cli.training_views import figures_text, next_view, note_new_training, stopped, training_bar

if TYPE_CHECKING:
    from pseudoris.training.ppt.curriculum import Round
    from pseudoris.training.ppt.ppt_config import PointGeneratorConfig, Source
    from pseudoris.training.ppt.ppt_training import PptRequest, PptSummary

_Runs = list[str] | None


def ppt(
    out: Annotated[str, typer.Option("--out", help="Local folder for the training. Each round has a folder in it.")],
    d_sem: Annotated[_Runs, typer.Option("--d-sem", help="Run of `ppt objects`.")] = None,
    d_ref: Annotated[_Runs, typer.Option("--d-ref", help="Run of `ppt compose`.")] = None,
    h: Annotated[_Runs, typer.Option("--h", help="Run of `ppt pairs`.")] = None,
    annotated: Annotated[
        _Runs, typer.Option("--annotated", help="Any other run or import. It is added to H_sem.")
    ] = None,
    val: Annotated[
        str | None, typer.Option("--val", help="Run or import to evaluate the model on after each phase.")
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="tiny (embedded models, CPU) or paper.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set one key, e.g. curriculum.epochs_factor=0.5. Overrides --config. Can be repeated."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same as --set training.seed=….")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --out; start one if there is none.")
    ] = False,
    plugins: options.Plugins = None,
) -> None:
    """Train PPT, weakly supervised, in phases.

    Give at least one of --d-sem, --d-ref, --h and --annotated. Each can be repeated. A phase uses
    only the data that is given.
    """
    # Only here: other commands need not wait for what this one imports.
    from pseudoris.training.ppt.curriculum import SourceRuns
    from pseudoris.training.ppt.ppt_config import load_ppt_config
    from pseudoris.training.ppt.ppt_training import PptRequest

    options.load_plugins(plugins)
    words = [*(assignments or ()), *([f"training.seed={seed}"] if seed is not None else [])]
    runs = SourceRuns(tuple(d_sem or ()), tuple(d_ref or ()), tuple(h or ()), tuple(annotated or ()))
    folder = training_folder(out, filter(None, (*runs.d_sem, *runs.d_ref, *runs.h, *runs.annotated, val)))
    config = load_ppt_config(preset, config_file, words)
    raise typer.Exit(_run_ppt(PptRequest(config, runs, folder, val=val, is_resuming=resume)))


def _run_ppt(request: PptRequest) -> int:
    from pseudoris.training.learning import open_fabric
    from pseudoris.training.ppt.ppt_training import Reports, train_ppt

    fabric = open_fabric(request.config.training)
    is_first = fabric.is_global_zero
    if is_first:
        note_new_training(request.out, is_resuming=request.is_resuming)

    def on_plan(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> None:
        stdout.print(plan_view(rounds, num_pairs))

    def on_select(each: Round, decided: int, pairs: int) -> None:
        report("select", f"{each.name}: {decided:,} of {pairs:,} undecided pairs now have a referent", "green")

    try:
        with training_bar(is_shown=is_first) as shown:
            _, summary = train_ppt(request, fabric, Reports(on_plan, shown.on_step, on_select))
    except KeyboardInterrupt:
        return stopped(request.out)
    if is_first:
        stdout.print(ppt_summary_view(summary, request.config.generator))
        stdout.print(next_view(request.out), soft_wrap=True)
    return 0


def plan_view(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> RenderableType:
    """Return what will be trained on, a row a phase."""
    from pseudoris.training.ppt.curriculum import describe

    table = facts_table("curriculum")
    for name, data, pairs, steps in describe(rounds, num_pairs):
        table.add_row(name, f"{data}: {pairs:,} pairs per epoch, {steps:,} steps")
    return table


def ppt_summary_view(summary: PptSummary, sizes: PointGeneratorConfig) -> RenderableType:
    """Return how a training ended as a table."""
    table = facts_table("trained")
    table.add_row("steps", f"{summary.num_steps:,}, {summary.num_steps_now:,} of them now")
    table.add_row("time", format_seconds(summary.wall_s))
    table.add_row(
        "parameters",
        f"{summary.num_parameters:,} trained: width {sizes.width}, {len(sizes.image_blocks)} stages, "
        f"{sizes.num_queries} queries of {sizes.num_points} points",
    )
    for phase, figures in summary.phases.items():
        table.add_row(phase, figures_text(figures))
    return table
