"""The presets `base` and `base-composed` on checkpoints of the real architectures, saved with random weights."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest
import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.sam_model import build_sam
from tests.builders.command import pseudoris
from tests.builders.images import png

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """SAM ViT-B, coca_ViT-B-32 and RN50, random weights, as files that `torch.save` wrote."""
    folder = tmp_path_factory.mktemp("checkpoints")
    config = load_config("base")
    builders = {
        "masks": lambda: build_sam(sam_architecture(config.masks.architecture)),
        "captions": lambda: build_from_config(read_model_config(config.captions.architecture)),
        "filtering": lambda: build_from_config(read_model_config(config.filtering.architecture)),
    }
    for section, build in builders.items():
        torch.manual_seed(0)
        torch.save(build().state_dict(), folder / f"{section}.pth")
    return folder


@pytest.mark.parametrize("preset", ["base", "base-composed"])
def test_one_small_image_goes_through_base_with_a_coarse_grid(checkpoints, tmp_path, preset):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(png(height=48, width=64, seed=1))
    settings = {
        **{f"{name}.weights.uri": checkpoints / f"{name}.pth" for name in ("masks", "captions", "filtering")},
        # Untrained, SAM believes in none of its masks: take what comes.
        "masks.pred_iou_thresh": -10,
        "masks.stability_score_thresh": 0,
        "masks.points_per_side": 2,
        "masks.box_nms_thresh": 1,
        "masks.reduction": "{mask_nms_iou: 1, min_area: 0, max_area: 1, min_inside: 1, max_part_area: 0}",
        # A dozen masks in four kinds of crop: two samplers and short captions keep it at seconds.
        "captions.max_length": 8,
        "captions.sampling.top_k": "[5]",
        "captions.sampling.top_p": "[0.4]",
        "compute.device": "cpu",
        "compute.threads": 2,
        "placement.fused": "{num_cpus: 1, num_gpus: 0, max_actors: 1}",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "out"
    shown = pseudoris("annotate", str(tmp_path / "images"), str(out), "--preset", preset, "--address", "local", *words)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    masks = ds.dataset(out / "masks").to_table().to_pylist()
    expressions = ds.dataset(out / "expressions").to_table().to_pylist()
    assert len(masks) >= 2
    drawn = [row for row in expressions if row["source"] == "model"]
    assert {row["target_mask_ids"][0] for row in drawn} == {row["mask_id"] for row in masks}
    assert all(row["distinctiveness"] is not None for row in drawn)
    # Of a captioner that knows no word of English nothing is composed, and nothing else is kept.
    assert all((row["caption_score"] is None) == (preset == "base") for row in drawn)
    assert [row["text"] for row in drawn if row["kept"]] == [] or preset == "base"
    assert pseudoris("verify", str(out)).returncode == 0
