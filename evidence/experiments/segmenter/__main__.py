"""Trains the segmenter on runs: `python -m evidence.experiments.segmenter RUN... --out FOLDER`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from evidence.experiments.segmenter.segmenter_config import load_segmenter_config
from evidence.experiments.segmenter.segmenter_training import train_segmenter
from pseudoris.cli.console import stdout
from pseudoris.cli.options import training_folder
from pseudoris.cli.train import show_step, training_bar, training_view
from pseudoris.primitives.errors import PseudorisError
from pseudoris.training.learning import open_fabric


def main(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders or urls of runs or imports.")],
    out: Annotated[str, typer.Option(help="Local folder for the checkpoint, logs and summary.")],
    val: Annotated[str | None, typer.Option(help="Run or import to evaluate the model on at the end.")] = None,
    human: Annotated[str | None, typer.Option(help="Import of human annotation to mix in.")] = None,
    preset: Annotated[str, typer.Option(help="tiny (embedded towers, CPU) or vit-b-16.")] = "tiny",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Set one key. Can be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Total steps; warm-up is at most a tenth of them.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same as --set training.seed=….")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out, if there is one.")] = False,
) -> None:
    """Train a segmenter: a supervised model of referring image segmentation that draws its masks."""
    try:
        folder = training_folder(out, filter(None, (*runs, val, human)))
        words = [*(assignments or ()), *([] if seed is None else [f"training.seed={seed}"])]
        config = load_segmenter_config(preset, None, words)
        if steps is not None:
            config = config.model_copy(update={"training": config.training.with_steps(steps)})
        fabric = open_fabric(config.training)
        with training_bar(is_shown=fabric.is_global_zero) as shown:
            on_step = partial(show_step, shown)
            _, summary = train_segmenter(
                config, runs, folder, fabric, val=val, human=human, is_resuming=resume, on_step=on_step
            )
    except PseudorisError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if fabric.is_global_zero:
        stdout.print(training_view(summary))


if __name__ == "__main__":
    typer.run(main)
