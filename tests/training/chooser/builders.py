"""Scenes as simulated annotators annotate them, and settings in which the chooser learns from them in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evidence.experiments.quality.scene_runs import SceneRun, imported_scenes
from pseudoris.synthworld.scenes import Split
from pseudoris.training.chooser.chooser_config import ChooserConfig, load_chooser_config

# A coarse grid: some objects are missed, as they are of large images.
COARSE = 'candidates.assignments=["masks.points_per_side=6","masks.crop_n_layers=0"]'


def chooser_words(cache: Path) -> list[str]:
    """Return `--set` words of a small chooser."""
    model = ["width=16", "num_heads=2", "num_layers=1", "word_code_width=16"]
    data = ["data.images_per_batch=2", "data.masks_per_image=3", "data.expressions_per_mask=1"]
    return [f"candidates.cache={cache}", COARSE, *(f"model.{word}" for word in model), *data]


def small_config(cache: Path, words: Sequence[str] = (), *, steps: int = 12) -> ChooserConfig:
    """Return settings of a training that takes a second or two."""
    training = [f"training.num_steps={steps}", "training.num_warmup_steps=2", "training.log_every=4"]
    return load_chooser_config("tiny", None, [*chooser_words(cache), *training, *words])


def imported_run(folder: Path, num_scenes: int) -> str:
    """Return an import of training scenes with true masks and simulated expressions."""
    return str(imported_scenes(folder, SceneRun(Split.TRAIN, num_scenes)))
