"""One training of the segmenter, from runs to a folder, and the trained segmenter read back from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric

from evidence.experiments.segmenter.segmenter_config import SegmenterConfig
from evidence.experiments.segmenter.segmenter_learner import SegmenterLearner, TargetDataset, collate
from pseudoris.files.location import RunLocation
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning import FitSummary, StepReport, Trainer, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import TRAININGS_VERSION, Trained
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.learning.trainer import begin_together, load_trained
from pseudoris.training.learning.training_data import open_feed, open_runs
from pseudoris.workers.checkpoints.weight_files import weights_digest

# In its checkpoints: from when it was the only student.
LEARNER: Final = "student"


def train_segmenter(
    config: SegmenterConfig,
    runs: Sequence[str],
    out: Path,
    fabric: Fabric,
    *,
    val: str | None = None,
    human: str | None = None,
    is_resuming: bool = False,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> tuple[SegmenterLearner, FitSummary]:
    """Train, or continue the training in the folder, as `pseudoris.training.chooser.chooser_training.train_student`."""
    folder = TrainingFolder(out)
    folder.refuse_another(is_resuming=is_resuming)
    saved = folder.settings()
    towers = FrozenTowers(config.towers, fabric.device)
    held_out = None if val is None else HeldOutExpressions(val, config.data.moved)
    snapshots = None if saved is None else saved.get("snapshots")
    targets, images, snapshots = open_runs(runs, human, config.data, seed=config.training.seed, snapshots=snapshots)
    learner = SegmenterLearner(config, towers, held_out)
    form, size = towers.image_format, config.model.mask_size
    data = TargetDataset(targets, images, image_format=form, mask_size=size, is_held=learner.holds)
    feed = open_feed(data, collate, config.data, fabric, targets=targets, seed=config.training.seed)
    settings = {
        "version": TRAININGS_VERSION,
        "learner": LEARNER,
        "config": config.decisive(),
        "towers_sha256": weights_digest(config.towers.weights),
        "runs": [RunLocation.open(run).root for run in runs],
        **({} if human is None else {"human": RunLocation.open(human).root}),
        "snapshots": snapshots,
    }
    begin_together(folder, settings, fabric)
    trainer = Trainer(fabric, config.training, folder, settings=json.dumps(settings), on_step=on_step)
    return learner, trainer.fit(learner, feed)


def load_segmenter(path: Path, device: str = "cpu") -> SegmenterLearner:
    """Return the segmenter of a training's folder, or of its checkpoint, in eval mode."""
    trained = Trained.read(path, LEARNER, SegmenterConfig, command="python -m evidence.experiments.segmenter")
    config = trained.config
    trained.require_weights("CLIP", config.towers.weights, "towers_sha256")
    learner = SegmenterLearner(config, FrozenTowers(config.towers, torch.device(device)))
    load_trained(learner.module, trained.module, where=str(trained.file))
    learner.module.to(device).eval()
    return learner
