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
    for step in range(5, 101, 5):
        bar.on_step(StepReport(step, 100, {"train/loss": 1 / step}))
        if step % 10 == 0:
            bar.on_step(StepReport(step, 100, {"val/miou": 0.5}))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "reading the runs"
    assert lines[1:12] == [f"proposing masks: {done} of 40" for done in range(0, 41, 4)]
    assert lines[12:16] == [
        "training, loss 0.200: 5 of 100",
        "training, loss 0.100: 10 of 100",
        "step 10: mIoU 0.500",
        "training, loss 0.050: 20 of 100",
    ]
    assert len(lines) == 12 + 11 + 10
