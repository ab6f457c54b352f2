"""A trained student, read back from its folder."""

from __future__ import annotations

from pathlib import Path

import torch

from schemas.config_loading import validate_as
from schemas.errors import ConfigError
from training.learning.saved import read_settings, require_weights
from training.learning.towers import FrozenTowers
from training.learning.trainer import load_trained
from training.student.config import StudentConfig
from training.student.learner import StudentLearner

# What a training of the student calls itself in its checkpoint.
LEARNER = "student"


def load_student(path: Path, device: str = "cpu") -> StudentLearner:
    """Return the student of a training's folder, or of its checkpoint, in eval mode.

    Raises:
        ConfigError: There is none, it is another learner's, or its towers' weights are missing or others.
    """
    file, state, settings = read_settings(path)
    if settings.get("learner") != LEARNER:
        raise ConfigError(f"{file} is no student's checkpoint: give the --out of `pseudoris train student`")
    config = validate_as(StudentConfig, settings["config"])
    require_weights(file, "towers", config.towers.weights, settings["towers_sha256"])
    learner = StudentLearner(config, FrozenTowers(config.towers, torch.device(device)))
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner
