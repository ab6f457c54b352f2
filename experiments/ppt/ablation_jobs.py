"""Measurements that run in their own process and are stored: a training, the floor, the student."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.measurement import cpu_seconds, digest_of
from experiments.ppt.ablation_rows import TRAININGS, Training
from experiments.ppt.ablation_runs import AblationRuns, Sizes
from pseudoris.training.learning import TrainingFolder, open_fabric
from pseudoris.training.learning.evaluator import HeldOutExpressions, ImageQuestion, evaluate, named_figures
from pseudoris.training.ppt.frozen_encoders import FrozenEncoders
from pseudoris.training.ppt.ppt_config import PptConfig, load_ppt_config
from pseudoris.training.ppt.ppt_training import PptRequest, train_ppt
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config
from pseudoris.training.student.student_config import StudentConfig, load_student_config
from pseudoris.training.student.student_training import StudentRequest, train_student

FIGURES_NAME = "figures.json"


@dataclass(frozen=True)
class AblationJob:
    """One measurement.

    Attributes:
        kind: `ppt` trains, `floor` is the paper's row 1, `student` is the RIS student.
        name: Of the training.
        seed: Of weights and order.
        runs: Made already.
        sizes: How long.
        folder: Of its own.
    """

    kind: Literal["ppt", "floor", "student"]
    name: str
    seed: int
    runs: AblationRuns
    sizes: Sizes
    folder: Path


def job_names(*, is_pseudo: bool) -> list[str]:
    """Return the names of all jobs, each once: with those of the pipeline's annotation, or without."""
    trainings = [each.name for each in TRAININGS if is_pseudo or "annotated" not in each.sources]
    return [*trainings, *(["student-pseudo"] if is_pseudo else []), "floor"]


def jobs_of(runs: AblationRuns, sizes: Sizes, folder: Path) -> list[AblationJob]:
    """Return all jobs of an ablation, the longest first; those of the pipeline's annotation where it was made."""
    found = []
    for training in TRAININGS:
        if "annotated" in training.sources and runs.pseudo is None:
            continue
        for seed in range(sizes.num_seeds if training.is_first else 1):
            digest = _digest(sizes, training.sources, config_of(training, sizes, seed).decisive())
            own = folder / f"{training.name}-{seed}-{digest}"
            found.append(AblationJob("ppt", training.name, seed, runs, sizes, own))
    if runs.pseudo is not None:
        own = folder / f"student-pseudo-{_digest(sizes, student_config(sizes).decisive())}"
        found.append(AblationJob("student", "student-pseudo", 0, runs, sizes, own))
    return [*found, AblationJob("floor", "floor", 0, runs, sizes, folder / f"floor-{_digest(sizes)}")]


def _digest(sizes: Sizes, *settings: object) -> str:
    """What a job was told, in its folder's name: figures of another size or setting are never taken for its own."""
    of_runs = {name: value for name, value in asdict(sizes).items() if name != "num_student_steps"}
    return digest_of([of_runs, *settings])[:8]


def measure(job: AblationJob) -> dict[str, Any]:
    """Return `figures` by row, `cpu_s` and `steps` of a job, from its folder where they stand."""
    path = job.folder / FIGURES_NAME
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    torch.set_num_threads(1)
    before, started = cpu_seconds(), time.monotonic()
    figures, steps = {"ppt": _trained, "floor": _floor, "student": _student}[job.kind](job)
    done = {"figures": figures, "steps": steps, "cpu_s": cpu_seconds() - before, "wall_s": time.monotonic() - started}
    job.folder.mkdir(parents=True, exist_ok=True)
    TrainingFolder(job.folder).write_json(FIGURES_NAME, done)
    return done


def config_of(training: Training, sizes: Sizes, seed: int) -> PptConfig:
    """Return the settings of a training."""
    config = load_ppt_config("tiny", None, [f"training.seed={seed}", *training.words])
    return config.model_copy(update={"curriculum": training.curriculum(sizes.epochs_factor * training.share_of_epochs)})


def student_config(sizes: Sizes) -> StudentConfig:
    """Return the settings of the RIS student: those it is shipped with, for as long as `sizes` says."""
    config = load_student_config("tiny")
    return config.model_copy(update={"training": config.training.with_steps(sizes.num_student_steps)})


@cache
def _encoders() -> FrozenEncoders:
    """All trainings of a process read the same images: an encoding each, not one a training."""
    return FrozenEncoders(load_ppt_config("tiny"))


def _trained(job: AblationJob) -> tuple[dict[str, Any], int]:
    """The figures after the phases that are rows; an interrupted training goes on."""
    (training,) = (each for each in TRAININGS if each.name == job.name)
    config = config_of(training, job.sizes, job.seed)
    is_resuming = (job.folder / "config.json").exists()
    # A training that is one row is asked at its end alone: a trainer would ask after each phase.
    val = job.runs.val if len(training.phases) > 1 else None
    request = PptRequest(config, training.runs(job.runs), job.folder, val=val, is_resuming=is_resuming)
    fabric = open_fabric(config.training)
    learner, summary = train_ppt(request, fabric, encoders=_encoders())
    phases = summary.phases
    if val is None:
        (phase,) = training.phases
        learner.held_out = HeldOutExpressions(job.runs.val)
        phases = {phase: learner.validate(learner.module, fabric)}
    return {row: dict(phases[phase]) for phase, row in training.phases.items()}, summary.num_steps


class ClipAndSam:
    """The paper's row 1: CLIP's response to the whole expression prompts SAM; nothing is trained."""

    def __init__(self) -> None:
        config = load_recipe_config("tiny")
        self._grounder = Grounder(config.grounding, config.run)

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; an empty one where SAM answers with no pixel."""
        image = np.ascontiguousarray(question.image.permute(1, 2, 0).numpy())
        texts = list(dict.fromkeys(question.texts))
        found = {each.phrase: torch.from_numpy(each.mask) for each in self._grounder(image, texts)}
        empty = torch.zeros(question.image.shape[1:], dtype=torch.bool)
        return torch.stack([found.get(text, empty) for text in question.texts])


def _floor(job: AblationJob) -> tuple[dict[str, Any], int]:
    return {"1": named_figures(evaluate(ClipAndSam(), HeldOutExpressions(job.runs.val)).figures())}, 0


def _student(job: AblationJob) -> tuple[dict[str, Any], int]:
    config = student_config(job.sizes)
    # It takes minutes: not worth a resume.
    shutil.rmtree(job.folder, ignore_errors=True)
    request = StudentRequest(config, [str(job.runs.pseudo)], job.folder, val=job.runs.val)
    _, summary = train_student(request, open_fabric(config.training))
    return {job.name: dict(summary.figures)}, summary.num_steps
