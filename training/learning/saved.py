"""What a checkpoint says of itself, whatever learner wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from schemas.config import WeightsConfig
from schemas.errors import ConfigError
from training.learning.folder import CHECKPOINT_NAME, load_checkpoint
from workers.checkpoints.weights import weights_digest


def read_settings(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return the file, the checkpoint and its settings, of a training's folder or of its checkpoint.

    `settings["learner"]` names whose it is; a checkpoint that says nothing has empty settings.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    file = path / CHECKPOINT_NAME if path.is_dir() else path
    state = load_checkpoint(file)
    text = state.get("settings")
    try:
        settings = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        settings = {}
    return file, state, settings if isinstance(settings, dict) else {}


def require_weights(file: Path, noun: str, weights: WeightsConfig, sha256: str) -> None:
    """Refuse a checkpoint whose frozen part, by its noun, has other weights now than those it was trained on.

    Raises:
        ConfigError: So it is, or they are missing.
    """
    digest = weights_digest(weights)
    if digest != sha256:
        raise ConfigError(
            f"{file} was trained on {noun} of sha256 {sha256[:12]}…, and {weights.uri} is {digest[:12]}…: "
            "put the former back, or train anew"
        )
