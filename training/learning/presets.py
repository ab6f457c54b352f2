"""A learner's presets: YAML files beside its code, and what a user lays over them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel

from schemas.config_loading import lay_over, validate_as
from schemas.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def preset_names(package: str) -> list[str]:
    """Return the names of the presets in `presets/` of a package, sorted."""
    folder = resources.files(package) / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(
    package: str, model: type[ConfigT], preset: str, path: Path | None = None, assignments: Sequence[str] = ()
) -> ConfigT:
    """Return a learner's resolved settings: `key=value` words over the YAML at `path` over the preset.

    Raises:
        ConfigError: An unknown preset, file, key or value; the message holds the nearest known name.
    """
    known = preset_names(package)
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        learner = package.rpartition(".")[2]
        raise ConfigError(f"the {learner} has no preset {preset!r}; known: {', '.join(known)}{hint}")
    text = (resources.files(package) / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    return validate_as(model, lay_over({"preset": preset, **yaml.safe_load(text)}, path, assignments))
