"""Small random models, runs and settings in which PPT goes through its curriculum in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pseudoris.training.ppt.curriculum import SourceRuns
from pseudoris.training.ppt.ppt_config import PptConfig, load_ppt_config
from tests.interchange.dataset.builders import build_run

# A CLIP of a few thousand weights, in open_clip's format.
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SAM = {
    "image_size": 32,
    "patch_size": 8,
    "encoder_width": 16,
    "encoder_depth": 1,
    "encoder_heads": 2,
    "encoder_global_blocks": [0],
    "window_size": 4,
    "prompt_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "decoder_mlp_width": 16,
    "iou_head_depth": 2,
    "iou_head_width": 16,
}
PHASES = [
    {"name": "semantic", "sources": ["h_sem", "d_sem"], "epochs": 1},
    {"name": "ris_augmented", "sources": ["h_sem", "d_sem", "d_ref"], "epochs": 1},
    {"name": "ris_joint", "sources": ["d_sem", "d_ref", "h_sem", "h_ref"], "epochs": 1, "is_selecting": True},
    {"name": "refinement", "sources": ["h_sem", "h_ref"], "epochs": 2, "is_selecting": True, "num_rounds": 2},
]
_NO_SCORES = dict.fromkeys(("uniqueness", "correctness", "distinctiveness", "rival_mask_id"))
RECIPE = {"source": "recipe", "samples": (), **_NO_SCORES}
UNDECIDED = {**RECIPE, "kept": False}


def small_words(folder: Path) -> list[str]:
    """Return `--set` words of small random models and a short curriculum."""
    folder.mkdir(parents=True, exist_ok=True)
    models = ["clip.weights.uri=random:3", "sam.weights.uri=random:4"]
    for name, architecture in {"clip": CLIP, "sam": SAM}.items():
        (folder / f"{name}.json").write_text(json.dumps(architecture), encoding="utf-8")
        models.append(f"{name}.architecture={folder / name}.json")
    sizes = ["num_queries=3", "num_points=3", "image_blocks=[0, 1]", "width=16", "num_heads=2"]
    rest = ["data.pairs_per_batch=4", "training.log_every=1", "training.checkpoint_every=2"]
    # At random a prediction overlaps a pseudo-mask by a little.
    curriculum = [f"curriculum.phases={json.dumps(PHASES)}", "curriculum.min_iou=0.02"]
    return [*models, *(f"generator.{word}" for word in sizes), *rest, *curriculum]


def small_config(folder: Path, words: Sequence[str] = ()) -> PptConfig:
    """Return settings of a training that takes seconds."""
    return load_ppt_config("tiny", None, [*small_words(folder), *words])


def small_runs(folder: Path) -> SourceRuns:
    """Return runs of four images each: one pair an image in D_sem, two in D_ref and H, half of H undecided."""
    sem = [(0, "the star in the middle", RECIPE)]
    ref = [(0, "the star on top", RECIPE), (1, "the star on top", UNDECIDED), (1, "the cup below", RECIPE)]
    pairs = [(0, "a red star", RECIPE), (0, "the star left of the cup", UNDECIDED)]
    pairs += [(1, "the star left of the cup", UNDECIDED)]
    built = {
        name: build_run(
            folder / name, num_shards=1, per_shard=4, prefix=name, rows=lambda number, rows=rows: rows, recipe=recipe
        )
        for name, recipe, rows in (("sem", "objects", sem), ("ref", "compose", ref), ("pairs", "pairs", pairs))
    }
    roots = {name: (run.location.root,) for name, run in built.items()}
    return SourceRuns(d_sem=roots["sem"], d_ref=roots["ref"], h=roots["pairs"])
