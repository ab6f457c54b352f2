"""A CLIP of a few thousand random weights, and settings in which the student learns on small runs in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pseudoris.training.student.student_config import StudentConfig, load_student_config

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def clip_words(folder: Path) -> list[str]:
    """Return `--set` words that name a small random CLIP and layers to match."""
    path = folder / "clip.json"
    path.write_text(json.dumps(CLIP), encoding="utf-8")
    towers = [f"towers.architecture={path}", "towers.weights.uri=random:3", "towers.layers=[0, 1]"]
    model = ["width=16", "num_heads=2", "mask_size=16", "stem_width=4", "kernel_width=4", "word_code_width=16"]
    rest = ["data.images_per_batch=4", "data.masks_per_image=2", "training.precision=32-true"]
    return [*towers, *(f"model.{word}" for word in model), *rest]


def small_config(folder: Path, words: Sequence[str] = (), *, steps: int = 12) -> StudentConfig:
    """Return settings of a training that takes a second or two."""
    training = [f"training.num_steps={steps}", "training.num_warmup_steps=2", "training.log_every=4"]
    return load_student_config("tiny", None, [*clip_words(folder), *training, *words])
