"""`pseudoris train student`: one training of a chooser, from runs to a folder, and the chooser read back from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric

from pseudoris.schemas.config_layers import validate_as
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.chooser.candidate_masks import CandidateStore
from pseudoris.training.chooser.chooser_config import ChooserConfig
from pseudoris.training.chooser.chooser_learner import ChooserLearner
from pseudoris.training.chooser.question_dataset import collate_questions
from pseudoris.training.learning import FitSummary, StepReport, Trainer, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import read_settings, require_weights
from pseudoris.training.learning.evaluator import HeldOutExpressions
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.learning.trainer import begin_together, load_trained
from pseudoris.training.learning.training_data import Snapshots, open_feed, open_runs
from pseudoris.workers.checkpoints.weight_files import weights_digest

# What a training calls itself in its checkpoint.
CHOOSER: Final = "chooser"


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

    config: ChooserConfig
    runs: Sequence[str]
    out: Path
    val: str | None = None
    human: str | None = None
    num_epochs: int | None = None
    is_resuming: bool = False


def train_student(
    request: StudentRequest,
    fabric: Fabric,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[ChooserLearner, FitSummary]:
    """Train, or continue the training in the folder; return the learner and its summary.

    Args:
        request: What, on what, and where.
        fabric: Returned by `pseudoris.training.learning.open_fabric`; all of its processes make this call.
        on_step: As in `Trainer`.
        on_image: Called while masks of images that are not in the cache are proposed: how many are done, of how many.

    Raises:
        ConfigError: A setting, run, image or checkpoint cannot be used; the message says what to fix.
        TransientError: Storage failed; the same call with `is_resuming` continues.
    """
    folder = TrainingFolder(request.out)
    folder.refuse_another(is_resuming=request.is_resuming)
    config, saved = request.config, folder.settings()
    towers = FrozenTowers(config.towers, fabric.device)
    held_out = None if request.val is None else HeldOutExpressions(request.val, config.data.moved)
    targets, images, snapshots = open_runs(
        request.runs,
        request.human,
        config.data,
        seed=config.training.seed,
        snapshots=None if saved is None else saved.get("snapshots"),
    )
    learner = _chooser(config, towers, held_out)
    data = learner.dataset(targets, images, on_image=on_image)
    feed = open_feed(data, collate_questions, config.data, fabric, targets=targets, seed=config.training.seed)
    if request.num_epochs is not None:
        training = config.training.with_steps(request.num_epochs * feed.num_batches())
        config = config.model_copy(update={"training": training})
    settings = _settings(request, config, snapshots, learner)
    begin_together(folder, settings, fabric)
    trainer = Trainer(fabric, config.training, folder, settings=json.dumps(settings), on_step=on_step)
    return learner, trainer.fit(learner, feed)


def _chooser(config: ChooserConfig, towers: FrozenTowers, held_out: HeldOutExpressions | None = None) -> ChooserLearner:
    return ChooserLearner(config, CandidateStore(config.candidates, config.towers, towers, config.refinement), held_out)


def _settings(
    request: StudentRequest, config: ChooserConfig, snapshots: Snapshots, learner: ChooserLearner
) -> dict[str, Any]:
    """Return what decides the weights, and enough to build the model again."""
    human = {} if request.human is None else {"human": RunLocation.open(request.human).root}
    return {
        "learner": CHOOSER,
        "candidates": learner.store.digest,
        "config": config.decisive(),
        "towers_sha256": weights_digest(config.towers.weights),
        "runs": [RunLocation.open(run).root for run in request.runs],
        **human,
        "snapshots": snapshots,
    }


def load_student(path: Path, device: str = "cpu", *, cache: Path | None = None) -> ChooserLearner:
    """Return the chooser of a training's folder, or of its checkpoint, in eval mode.

    Args:
        path: The folder, or the file.
        device: Where its models compute.
        cache: Folder of candidates, as `candidates.cache`; None keeps them in memory.

    Raises:
        ConfigError: There is none, it is another learner's, or its frozen models' weights are missing or others.
    """
    file, state, settings = read_settings(path)
    if settings.get("learner") != CHOOSER:
        raise ConfigError(f"{file} is not a checkpoint of a student. Give the --out of `pseudoris train student`.")
    config = validate_as(ChooserConfig, settings["config"]).with_cache(cache)
    require_weights(file, "towers", config.towers.weights, settings["towers_sha256"])
    learner = _chooser(config, FrozenTowers(config.towers, torch.device(device)))
    if learner.store.digest != settings["candidates"]:
        raise ConfigError(
            f"{file} chose among masks of the preset {config.candidates.preset!r} as it was then. Its settings "
            "or weights are others now. Train again, or use the version of pseudoris that trained it."
        )
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner
