"""How a training is shown where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from pseudoris.cli.training_views import TrainingBar
from pseudoris.training.learning import StepReport


def test_without_a_terminal_each_tenth_is_a_line():
    console = Console(file=io.StringIO(), width=100)
    bar = TrainingBar(Progress(console=console))
    for done in range(41):
        bar.on_image(done, 40)
    for step in range(50, 301, 50):
        bar.on_step(StepReport(step, 300, {"train/loss": 1 / step}))
    bar.on_step(StepReport(300, 300, {"val/miou": 0.5}))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "reading the runs"
    assert lines[1:12] == [f"proposing masks: {done} of 40" for done in range(0, 41, 4)]
    assert lines[12] == "training, loss 0.020: 50 of 300"
    assert lines[-2:] == ["validating: 300 of 300", "step 300: mIoU 0.500"]
