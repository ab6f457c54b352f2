"""A trained PPT, read back from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from schemas.config_loading import validate_as
from schemas.errors import ConfigError
from training.learning.saved import read_settings, require_weights
from training.learning.trainer import load_trained
from training.ppt.encoding import FrozenEncoders
from training.ppt.learner import PointLearner
from training.ppt.settings import PptConfig
from workers.checkpoints.weights import weights_digest

# What a training of PPT calls itself in its checkpoint.
LEARNER: Final = "ppt"


def settings_of(config: PptConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides weights and figures, and enough to build the model again; `data`: what is read, as JSON."""
    return {"learner": LEARNER, "config": config.decisive(), "sha256": _digests(config), **data}


def load_ppt(path: Path, device: str = "cpu") -> PointLearner:
    """Return the learner of a training's folder, of one of its rounds, or of a checkpoint, in eval mode.

    Raises:
        ConfigError: There is none, it is another learner's, or the encoders' weights are missing or others.
    """
    file, state, settings = read_settings(path)
    if settings.get("learner") != LEARNER:
        raise ConfigError(f"{file} is no checkpoint of PPT: give the --out of `pseudoris train ppt`")
    config = validate_as(PptConfig, settings["config"])
    require_weights(file, "a clip", config.clip.weights, settings["sha256"]["clip"])
    require_weights(file, "a sam", config.sam.weights, settings["sha256"]["sam"])
    learner = PointLearner(config, FrozenEncoders(config, torch.device(device)))
    load_trained(learner.module, state["module"], where=str(file))
    learner.module.to(device).eval()
    return learner


def _digests(config: PptConfig) -> dict[str, str]:
    return {"clip": weights_digest(config.clip.weights), "sam": weights_digest(config.sam.weights)}
