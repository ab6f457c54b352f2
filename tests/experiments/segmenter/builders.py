"""A CLIP of a few thousand random weights, and settings in which the segmenter learns on small runs in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.segmenter.segmenter_config import SegmenterConfig, load_segmenter_config
from tests.training.ppt.builders import CLIP


def clip_words(folder: Path) -> list[str]:
    """Return `--set` words that name a small random CLIP and layers to match."""
    path = folder / "clip.json"
    path.write_text(json.dumps(CLIP), encoding="utf-8")
    towers = [f"towers.architecture={path}", "towers.weights.uri=random:3", "towers.layers=[0, 1]"]
    model = ["width=16", "num_heads=2", "mask_size=16", "stem_width=4", "kernel_width=4", "word_code_width=16"]
    rest = ["data.images_per_batch=4", "data.masks_per_image=2", "training.precision=32-true"]
    return [*towers, *(f"model.{word}" for word in model), *rest]


def small_config(folder: Path, words: Sequence[str] = (), *, steps: int = 12) -> SegmenterConfig:
    """Return settings of a training that takes a second or two."""
    training = [f"training.num_steps={steps}", "training.num_warmup_steps=2", "training.log_every=4"]
    return load_segmenter_config("tiny", None, [*clip_words(folder), *training, *words])
