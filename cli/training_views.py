"""Shows a training, of any model: a progress bar, and its figures under the names that papers use."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from pseudoris.cli.console import command, path_lines, report, report_stopped, stderr
from pseudoris.cli.progress import INTERRUPTED, Bar, bar

if TYPE_CHECKING:
    from pseudoris.training.learning import StepReport


class TrainingBar:
    """Shows images that are prepared and steps on a bar, and validations as lines."""

    def __init__(self, show: Bar) -> None:
        self._show = show

    def on_image(self, done: int, total: int) -> None:
        """Show how many images have their masks, of how many."""
        self._show(done, total, "proposing masks")

    def on_step(self, step: StepReport) -> None:
        """Show a step, or the figures of a validation."""
        loss = step.values.get("train/loss")
        self._show(step.step, step.num_steps, "validating" if loss is None else f"training, loss {loss:.3f}")
        if loss is None and step.values:
            self._show.print(f"step {step.step}: {figures_text(step.values)}")


@contextmanager
def training_bar(*, is_shown: bool) -> Iterator[TrainingBar]:
    """Give the bar of a training; only the first process shows it."""
    amount = (lambda done, total: f"{done:,} of {total:,}") if is_shown else None
    with bar("reading the runs", amount=amount, console=stderr if is_shown else Console(quiet=True)) as show:
        yield TrainingBar(show)


def note_new_training(out: Path, *, is_resuming: bool) -> None:
    """Report if `--resume` finds no training to continue.

    That is no error: a script that restarts after a kill always passes `--resume`, also before the first checkpoint. It
    is reported because a mistyped folder looks the same.
    """
    from pseudoris.training.learning import TrainingFolder

    if is_resuming and not TrainingFolder(out).is_begun:
        report("note", f"{out} has no training to resume. A new one begins.", "yellow")


def stopped(out: Path) -> int:
    """Report where an interrupted training is and how to continue it; return the exit code."""
    from pseudoris.training.learning import TrainingFolder

    if TrainingFolder(out).is_begun:
        report("stopped", f"The last checkpoint is in {out}. Use --resume to continue from it.", "yellow")
    else:
        report_stopped("interrupted before the first step: nothing is kept")
    return INTERRUPTED


def figures_text(figures: Mapping[str, float]) -> str:
    """Return figures of a validation in one line: `mIoU 0.612, oIoU 0.655, P@0.5 0.700`."""
    named = {name.removeprefix("val/"): value for name, value in figures.items()}
    return ", ".join(f"{figure_title(name)} {value:.3f}" for name, value in named.items())


def figure_title(name: str) -> str:
    """Return a figure's name as papers write it."""
    if name.startswith("p") and name[1:].isdigit():
        return f"P@{int(name[1:]) / 100:.1f}"
    return {"miou": "mIoU", "oiou": "oIoU"}.get(name, name)


def next_view(out: Path) -> RenderableType:
    """Return what to do with a finished training."""
    ask = command("predict", "IMAGE", "the small star on the left", "--model", str(out))
    return path_lines("next", {"ask": ask, "curves": shlex.join(["tensorboard", "--logdir", str(out)])})
