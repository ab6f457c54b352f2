"""One training of the student, from runs to a folder, and the trained student read back from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from pseudoris.schemas.config_layers import validate_as
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.learning import FitSummary, ResumableFeed, StepReport, Trainer, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import read_settings, require_weights
from pseudoris.training.learning.evaluator import HeldOutExpressions
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.learning.trainer import begin_together, load_trained
from pseudoris.training.student.student_config import StudentConfig
from pseudoris.training.student.student_learner import StudentLearner
from pseudoris.training.student.target_dataset import Snapshots, collate, training_set
from pseudoris.workers.checkpoints.weight_files import weights_digest

# What a training of the student calls itself in its checkpoint.
LEARNER = "student"


@dataclass(frozen=True, slots=True)
class StudentRequest:
    """One training to run.

    Attributes:
        config: Resolved.
        runs: Folders or urls, at least one; a human's import counts as one.
        val: A run or import whose kept expressions are evaluated at each validation; None for none.
        human: An import to mix in by `data.human_fraction` and `data.human_share`; None for none.
        out: Local folder of the training.
        num_epochs: Passes over the masks, in place of the settings' number of steps; None leaves it.
        is_resuming: Whether to continue the training in `out`.
    """

    config: StudentConfig
    runs: Sequence[str]
    out: Path
    val: str | None = None
    human: str | None = None
    num_epochs: int | None = None
    is_resuming: bool = False


def train_student(
    request: StudentRequest, fabric: Fabric, *, on_step: Callable[[StepReport], None] = lambda report: None
) -> tuple[StudentLearner, FitSummary]:
    """Train, or continue the training in the folder; return the learner and its summary.

    Args:
        request: What, on what, and where.
        fabric: Returned by `pseudoris.training.learning.open_fabric`; all of its processes make this call.
        on_step: As in `Trainer`.

    Raises:
        ConfigError: A setting, run, image or checkpoint cannot be used; the message says what to fix.
        TransientError: Storage failed; the same call with `is_resuming` continues.
    """
    folder = TrainingFolder(request.out)
    folder.refuse_another(is_resuming=request.is_resuming)
    config = request.config
    towers = FrozenTowers(config.towers, fabric.device)
    held_out = None if request.val is None else HeldOutExpressions(request.val, config.data.moved)
    learner = StudentLearner(config, towers, held_out)
    feed, snapshots = _feed(request, learner, fabric)
    if request.num_epochs is not None:
        training = config.training.with_steps(request.num_epochs * feed.num_batches())
        config = config.model_copy(update={"training": training})
    settings = _settings(request, config, snapshots)
    begin_together(folder, settings, fabric)
    trainer = Trainer(fabric, config.training, folder, settings=json.dumps(settings), on_step=on_step)
    return learner, trainer.fit(learner, feed)


def _feed(request: StudentRequest, learner: StudentLearner, fabric: Fabric) -> tuple[ResumableFeed, Snapshots]:
    """Return the batches of this process, and which commits they are of."""
    config, saved = request.config, TrainingFolder(request.out).settings()
    data, snapshots = training_set(
        request.runs,
        request.human,
        config.data,
        seed=config.training.seed,
        image_format=learner.towers.image_format,
        mask_size=config.model.mask_size,
        is_held=learner.holds,
        snapshots=None if saved is None else saved.get("snapshots"),
    )
    feed = ResumableFeed(
        data,
        collate,
        units_per_batch=config.data.images_per_batch,
        masks_per_unit=config.data.masks_per_image,
        seed=config.training.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        num_workers=config.data.num_workers,
    )
    return feed, snapshots


def _settings(request: StudentRequest, config: StudentConfig, snapshots: Snapshots) -> dict[str, Any]:
    """Return what decides the weights, and enough to build the model again."""
    human = {} if request.human is None else {"human": RunLocation.open(request.human).root}
    return {
        "learner": LEARNER,
        "config": config.decisive(),
        "towers_sha256": weights_digest(config.towers.weights),
        "runs": [RunLocation.open(run).root for run in request.runs],
        **human,
        "snapshots": snapshots,
    }


def load_student(path: Path, device: str = "cpu") -> StudentLearner:
    """Return the student of a training's folder, or of its checkpoint, in eval mode.

    Raises:
        ConfigError: There is none, it is another learner's, or its towers' weights are missing or others.
    """
    file, state, settings = read_settings(path)
    if settings.get("learner") != LEARNER:
        raise ConfigError(f"{file} is not a checkpoint of a student. Give the --out of `pseudoris train student`.")
    config = validate_as(StudentConfig, settings["config"])
    require_weights(file, "towers", config.towers.weights, settings["towers_sha256"])
    learner = StudentLearner(config, FrozenTowers(config.towers, torch.device(device)))
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner
