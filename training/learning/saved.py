"""What a checkpoint says of itself, whatever learner wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.learning.folder import CHECKPOINT_NAME, load_checkpoint


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
