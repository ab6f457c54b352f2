"""A trained student, read back from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from schemas.config_loading import validate_as
from schemas.errors import ConfigError
from training.learning.folder import CHECKPOINT_NAME, load_checkpoint
from training.learning.trainer import load_trained
from training.student.config import StudentConfig
from training.student.learner import StudentLearner
from training.student.towers import FrozenTowers
from workers.checkpoints.weights import weights_digest

# What a training of the student calls itself in its checkpoint.
LEARNER = "student"


def load_student(path: Path, device: str = "cpu") -> StudentLearner:
    """Return the student of a training's folder, or of its checkpoint, in eval mode.

    Raises:
        ConfigError: There is none, it is another learner's, or its towers' weights are missing or others.
    """
    file = path / CHECKPOINT_NAME if path.is_dir() else path
    state = load_checkpoint(file)
    settings = _settings(state.get("settings"), file)
    config = validate_as(StudentConfig, settings["config"])
    digest = weights_digest(config.towers.weights)
    if digest != settings["towers_sha256"]:
        raise ConfigError(
            f"{file} was trained on towers of sha256 {settings['towers_sha256'][:12]}…, and "
            f"{config.towers.weights.uri} is {digest[:12]}…: put the former back, or train anew"
        )
    learner = StudentLearner(config, FrozenTowers(config.towers, torch.device(device)))
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner


def _settings(text: object, file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        settings = {}
    if not isinstance(settings, dict) or settings.get("learner") != LEARNER:
        raise ConfigError(f"{file} is no student's checkpoint: give the --out of `pseudoris train student`")
    return settings
