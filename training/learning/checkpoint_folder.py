"""A training's folder, of which each file is written whole or not at all. For `training`, `cli`, experiments.

FOLDER/config.json        settings and data, written once: a resume must have the same
FOLDER/trained_on.json    sha256 of the images and models that it learns from (`evaluation/held_out.py`)
FOLDER/checkpoint.pt      the latest; it holds the settings too, so that it can be read alone
FOLDER/summary.json       figures and times, written at the end: it means that the training is done
FOLDER/events.out.tfevents.*
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeVar

import torch
from pydantic import BaseModel

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, refuse_other_version
from pseudoris.primitives.untrusted import open_regular, parse_json, read_regular
from pseudoris.primitives.uris import make_folder
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import validate_as
from pseudoris.workers.checkpoints.tensor_files import load_tensors
from pseudoris.workers.checkpoints.weight_files import weights_digest

CONFIG_NAME: Final = "config.json"
CHECKPOINT_NAME: Final = "checkpoint.pt"
SUMMARY_NAME: Final = "summary.json"
# A training's settings record this version. Pseudoris 0.4 recorded none, which counts as version 1.
TRAININGS_VERSION: Final = 2

ConfigT = TypeVar("ConfigT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """A local folder of one training; it need not exist."""

    path: Path

    @property
    def is_begun(self) -> bool:
        """Whether the folder has a training, with or without a first checkpoint."""
        return (self.path / CONFIG_NAME).exists()

    def refuse_another(self, *, is_resuming: bool) -> None:
        """Raise ConfigError if it has a training that is not to be resumed, other files, or cannot be written.

        Nothing is made.
        """
        if not is_resuming and self.is_begun:
            raise ConfigError(f"{self.path} already has a training. Continue it with --resume, or name another --out.")
        path = self.path.absolute()
        place = next(each for each in (path, *path.parents) if os.path.lexists(each))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{self.path} cannot be used: {place} is no folder that you may write to. Name another --out."
            )
        if not self.is_begun:
            RunLocation.open(str(path)).refuse_others(lambda name: False, "Name a new or an empty folder as --out")

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the training in this folder, as given to `begin`; None if it has none."""
        if not self.is_begun:
            return None
        path = self.path / CONFIG_NAME
        try:
            found: dict[str, Any] = parse_json(read_regular(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}. Name another --out.") from error
        _check_version(path, found)
        return found

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of a new training, or compare them with those of a resumed one."""
        saved = self.settings()
        if saved is None:
            make_folder(self.path)
            self.write_json(CONFIG_NAME, settings)
            return
        differing = _differences(saved, parse_json(json.dumps(settings)))
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise ConfigError(
                f"The training in {self.path} began with other settings. Resume with the same ones:\n{lines}"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint: a reader finds the former or this one, never a partial file."""
        with self._replaced(CHECKPOINT_NAME) as file:
            torch.save(dict(state), file)

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint, on the CPU; None if none was written yet."""
        path = self.path / CHECKPOINT_NAME
        return load_checkpoint(path) if path.exists() else None

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a file of the folder, whole or not at all."""
        with self._replaced(name) as file:
            file.write(f"{json.dumps(values, indent=1)}\n".encode())

    @contextmanager
    def _replaced(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write, which takes the place of the one of that name once it is on the disk."""
        unfinished = self.path / f".{name}-unfinished"
        try:
            with open_regular(unfinished, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path / name)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{self.path / name} cannot be written: {error}. Free some space.") from error
        finally:
            unfinished.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `TrainingFolder.save` wrote, on the CPU; only tensors and plain values are read."""
    try:
        state = load_tensors(path)
    except FileNotFoundError:
        folder = path.parent
        if path.name != CHECKPOINT_NAME or not TrainingFolder(folder).is_begun:
            raise ConfigError(f"There is no checkpoint at {path}. Give the --out of `pseudoris train`.") from None
        # A round of a curriculum may have a checkpoint before it is done. The error below then names this checkpoint.
        rounds = sorted(each.parent for each in folder.glob(f"*/{CHECKPOINT_NAME}"))
        meanwhile = f" Or give {rounds[-1]}, an unfinished round." if rounds else ""
        raise ConfigError(
            f"The training in {folder} has no checkpoint yet (for PPT: no finished round). Continue it: the same "
            f"`pseudoris train` with --resume.{meanwhile}"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a checkpoint of a training: {error}. Give another file.") from error
    if not isinstance(state, dict) or not isinstance(state.get("module"), dict):
        raise ConfigError(f"{path} is not a checkpoint of a training. Give the --out of `pseudoris train`.")
    return state


def read_settings(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return the file, the checkpoint and its settings, of a training's folder or of its checkpoint.

    `settings["learner"]` names its learner; a checkpoint without settings gives empty ones.
    """
    file = path / CHECKPOINT_NAME if path.is_dir() else path
    state = load_checkpoint(file)
    try:
        settings = parse_json(str(state.get("settings")))
    except ValueError:
        settings = {}
    if not isinstance(settings, dict) or "learner" not in settings:
        return file, state, {}
    _check_version(file, settings)
    return file, state, settings


@dataclass(frozen=True, slots=True)
class Trained(Generic[ConfigT]):
    """What a training left in a checkpoint: its module's tensors, its settings, and its learner's configuration."""

    file: Path
    module: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]
    config: ConfigT

    @classmethod
    def read(cls, path: Path, learner: str, model: type[ConfigT], *, command: str) -> Trained[ConfigT]:
        """Read the folder or the checkpoint of a training of `learner`; another's is none that `command` wrote."""
        file, state, settings = read_settings(path)
        if settings.get("learner") != learner:
            raise ConfigError(f"{file} is not a checkpoint of `{command}`. Give its --out.")
        if "config" not in settings:
            raise ConfigError(f"{file} lacks the settings of its training. Give the --out of `{command}`.")
        return cls(file, state["module"], settings, validate_as(model, settings["config"]))

    def require_weights(self, noun: str, weights: WeightsConfig, *names: str) -> None:
        """Refuse weights of the frozen part `noun` whose sha256 is not the one at `names` in the settings."""
        sha256: Any = self.settings
        for name in names:
            sha256 = sha256.get(name) if isinstance(sha256, Mapping) else None
        if not isinstance(sha256, str):
            raise ConfigError(f"{self.file} lacks the sha256 of its {noun}. Give the --out of `pseudoris train`.")
        digest = weights_digest(weights)
        if digest != sha256:
            raise ConfigError(
                f"{self.file} was trained on a {noun} with sha256 {sha256[:12]}…, but {weights.uri} has "
                f"{digest[:12]}…. Put the earlier file back, or train again."
            )


def _check_version(path: Path, settings: Any) -> None:
    """Refuse settings of another version; drop `refinement`, which 0.6 wrote, from those of a student."""
    found = settings.get("version", 1) if isinstance(settings, dict) else None
    refuse_other_version(str(path), found, TRAININGS_VERSION, again="train again")
    config = settings.get("config")
    refinement = config.pop("refinement", None) if isinstance(config, dict) else None
    if isinstance(refinement, dict) and refinement.get("is_on"):
        raise ConfigError(
            f"{path} is of a student that redraws outlines, which left in version 0.7. Train again, or use version 0.6."
        )


def _differences(saved: Any, given: Any, key: str = "") -> list[str]:
    if isinstance(saved, dict) and isinstance(given, dict):
        names = {name: f"{key}.{name}" if key else name for name in [*saved, *given]}
        return [line for name, own in names.items() for line in _differences(saved.get(name), given.get(name), own)]
    return [] if saved == given else [f"{key}: {saved!r} then, {given!r} now"]
