"""The presets `base-composed` and `open-composed`: whole, with random weights of their own classes."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest
import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.sam_model import build_sam
from tests.builders.command import pseudoris_here
from tests.builders.images import png
from tests.builders.promptable_models import save_model
from tests.builders.vlms import save_vlm

pytestmark = pytest.mark.slow


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path))
    said = pseudoris_here("weights", "check", "open").stdout
    assert "pseudoris weights get open" in said
    for name in ("facebook/sam2.1-hiera-base-plus@", "Qwen/Qwen3-VL-2B-Instruct@", "ViT-B-16/datacomp_xl_s13b_b90k"):
        assert name in said


def base_models(folder):
    """Save SAM ViT-B, coca_ViT-B-32 and RN50 as files that `torch.save` wrote; return settings."""
    config = load_config("base")
    builders = {
        "masks": lambda: build_sam(sam_architecture(config.masks.architecture)),
        "captions": lambda: build_from_config(read_model_config(config.captions.architecture)),
        "filtering": lambda: build_from_config(read_model_config(config.filtering.architecture)),
    }
    for section, build in builders.items():
        torch.manual_seed(0)
        torch.save(build().state_dict(), folder / f"{section}.pth")
    uris = {f"{section}.weights.uri": folder / f"{section}.pth" for section in builders}
    # A dozen masks in four kinds of crop: two samplers and short captions keep it at seconds.
    return {**uris, "captions.sampling.top_k": "[5]", "captions.sampling.top_p": "[0.4]", "compute.threads": 2}


def open_models(folder):
    """Save a small SAM 2 and a small Qwen3-VL as model folders; return settings."""
    # Published SAM 2.1 are of this class, whose image model is opened.
    save_model(folder / "sam2", "Sam2VideoModel")
    return {
        "masks.weights.uri": folder / "sam2",
        "captions.weights.uri": save_vlm(folder / "vlm", "qwen3_vl"),
        "captions.options": "{crop_size: 56}",
        "captions.sampling.top_p": "[0.9]",
        "filtering.architecture": "builtin:tiny/clip.json",
        "filtering.weights.uri": "random:0",
        "compute.precision": "float32",
        "compute.threads": 1,
    }


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(("preset", "models"), [("open-composed", open_models), ("base-composed", base_models)])
def test_models_of_its_classes_go_from_images_to_verified_tables(tmp_path, ray_session, preset, models):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(png(height=48, width=64, seed=1))
    settings = {
        **models(tmp_path),
        # Untrained, SAM believes in none of its masks: take what comes.
        "masks.pred_iou_thresh": -10,
        "masks.stability_score_thresh": 0,
        "masks.points_per_side": 2,
        "masks.box_nms_thresh": 1,
        "masks.reduction": "{mask_nms_iou: 1, min_area: 0, max_area: 1, min_inside: 1, max_part_area: 0}",
        "captions.max_length": 8,
        "compute.device": "cpu",
        "placement.fused": "{num_cpus: 1, num_gpus: 0, max_actors: 1}",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    pseudoris_here("annotate", "images", "out", "--preset", preset, *words, cwd=tmp_path, code=0)
    masks = ds.dataset(tmp_path / "out" / "masks").to_table().to_pylist()
    expressions = ds.dataset(tmp_path / "out" / "expressions").to_table().to_pylist()
    assert len(masks) >= 2
    (image,) = ds.dataset(tmp_path / "out" / "images").to_table().to_pylist()
    # No area is too small here, and a draw may be blank.
    assert image["num_too_small"] == 0
    assert 0 < len(image["whole_picture"]) <= 12
    drawn = [row for row in expressions if row["source"] == "model"]
    assert drawn
    targets, ids = ({row["target_mask_ids"][0] for row in drawn}, {row["mask_id"] for row in masks})
    assert targets <= ids
    if preset == "base-composed":
        assert targets == ids
        assert all(row["distinctiveness"] is not None for row in drawn)
    # Of a captioner that knows no word of English nothing is composed, and nothing else is kept.
    assert all(row["caption_score"] is not None for row in drawn)
    assert not any(row["kept"] for row in drawn)
    pseudoris_here("verify", "out", cwd=tmp_path, code=0)
