"""Does the student learn? Trained on the truth of some scenes, asked about others, beside what needs no training.

    python -m benchmarks.quality.students --folder bench-out/students [--json F] [--set model.width=96 …]

Training scenes are of the split `train`, held-out ones of `test` (their category × colour pairs partly never trained
on); what is said of objects is said as people would (`synthworld.expressions`). The floors choose among masks that the
tiny preset's SAM proposes on the held-out scenes.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.quality.scenes import annotated_scenes
from schemas.config_loading import load_config
from schemas.ids import sha256_hex
from schemas.shard import Shard, ShardImage
from synthworld.scenes import Split
from synthworld.shards import encode_png
from training.learning import StepReport, open_fabric
from training.metrics import SegmentationMeter
from training.student.config import load_student_config
from training.student.evaluating import Questions, ask
from training.student.floors import ClipFloor, ProposedMask, ProposedMasks, RandomFloor
from training.student.training import StudentRequest, train_student
from workers.masks import SamProposer

_RANDOM_SEEDS = 5


def floors(questions: Questions, proposed: ProposedMasks) -> dict[str, dict[str, Any]]:
    """Return the figures of what needs no training, of a random mask the mean over five draws."""
    config = load_config("tiny")
    drawn = [ask(RandomFloor(proposed, seed=seed), questions).figures().as_json() for seed in range(_RANDOM_SEEDS)]
    mean = {name: sum(each[name] for each in drawn) / len(drawn) for name in drawn[0] if drawn[0][name] is not None}
    found: dict[str, dict[str, Any]] = {"random mask": mean}
    for crops in ("context", "masked", "both"):
        floor = ClipFloor(proposed, config.filtering, config.compute, crops=crops)
        found[f"best mask by CLIP, {crops} crop"] = ask(floor, questions).figures().as_json()
    return found


def propose(questions: Questions) -> ProposedMasks:
    """Return the masks that the tiny preset's SAM proposes for the images of the questions."""
    config = load_config("tiny")
    proposer = SamProposer(config.masks, config.compute)
    found: dict[str, list[ProposedMask]] = {}
    for question in questions.of(questions.image_ids):
        data = encode_png(question.image.permute(1, 2, 0).numpy())
        height, width = question.image.shape[1:]
        image = ShardImage(0, question.image_id, "", data, sha256=sha256_hex(data), height=height, width=width)
        (done,) = proposer(Shard(0, 0, (image,))).images
        found[done.image_id] = [ProposedMask(mask.rle_size, mask.rle_counts, mask.box_xyxy_px) for mask in done.masks]
    return ProposedMasks(found)


def trained(
    run: str, questions: Questions, out: Path, *, settings: Sequence[str] = (), console: Console | None = None
) -> tuple[SegmentationMeter, dict[str, Any]]:
    """Train a student and return how it answers, and what that took.

    Args:
        run: To train on.
        questions: To ask.
        out: A new folder.
        settings: `key=value` words over the tiny preset.
        console: Told of each report.
    """
    config = load_student_config("tiny", None, settings)
    fabric = open_fabric(config.training)

    def on_step(report: StepReport) -> None:
        if console is not None:
            values = "  ".join(f"{name} {value:.3f}" for name, value in report.values.items())
            console.print(f"{report.step:>5} of {report.num_steps}  {values}", highlight=False)

    before, started = _cpu_s(), time.monotonic()
    learner, summary = train_student(StudentRequest(config, [run], out), fabric, on_step=on_step)
    cost = {"cpu_s": _cpu_s() - before, "wall_s": time.monotonic() - started, "parameters": summary.num_parameters}
    return ask(learner, questions), cost


def _cpu_s() -> float:
    """Return the CPU seconds of this process so far: on a shared machine they say more than the wall's."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(
    folder: Annotated[Path, typer.Option(help="For scenes, runs and the training.")] = Path("bench-out/students"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    train_scenes: Annotated[int, typer.Option(min=1)] = 400,
    val_scenes: Annotated[int, typer.Option(min=1)] = 150,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Such as training.num_steps=300.")] = None,
    has_floors: Annotated[bool, typer.Option("--floors/--no-floors")] = True,
) -> None:
    """Train a student on the truth and print how it answers."""
    torch.set_num_threads(1)
    console = Console(stderr=True)
    train = annotated_scenes(folder / f"train-{train_scenes}", split=Split.TRAIN, num_scenes=train_scenes)
    val = annotated_scenes(folder / f"test-{val_scenes}", split=Split.TEST, num_scenes=val_scenes)
    questions = Questions(str(val))
    found = floors(questions, propose(questions)) if has_floors else {}
    meter, cost = trained(str(train), questions, _new(folder), settings=settings or (), console=console)
    found["student, trained on the truth"] = meter.figures().as_json() | cost
    Console(width=120).print(figures_table(found))
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def figures_table(found: dict[str, dict[str, Any]]) -> Table:
    """Return the figures of each, a row each."""
    names = {"miou": "mIoU", "oiou": "oIoU", "p@0.3": "P@0.3", "p@0.5": "P@0.5", "p@0.7": "P@0.7", "p@0.9": "P@0.9"}
    table = Table("", *names.values(), "CPU s", box=None)
    for title, figures in found.items():
        cpu = f"{figures['cpu_s']:.0f}" if "cpu_s" in figures else ""
        table.add_row(title, *(f"{figures[name]:.3f}" for name in names), cpu)
    return table


def _new(folder: Path) -> Path:
    number = 0
    while (folder / f"student-{number}").exists():
        number += 1
    return folder / f"student-{number}"


if __name__ == "__main__":
    typer.run(main)
