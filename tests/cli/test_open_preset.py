"""The presets `open` and `open-composed`: whole with random weights of their own classes at small sizes."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest
import torch

from tests.builders.command import pseudoris_here
from tests.builders.images import png
from tests.builders.promptable_models import save_model
from tests.builders.vlms import small_vlm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A SAM 2 and a Qwen3-VL as model folders."""
    folder = tmp_path_factory.mktemp("models")
    # Published SAM 2.1 are of this class, whose image model is opened.
    save_model(folder / "sam2", "Sam2VideoModel")
    for part in small_vlm("qwen3_vl", dtype=torch.float32):
        part.save_pretrained(folder / "vlm")
    return folder


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path))
    said = pseudoris_here("weights", "check", "open").stdout
    assert "pseudoris weights get open" in said
    for name in ("facebook/sam2.1-hiera-base-plus@", "Qwen/Qwen3-VL-2B-Instruct@", "ViT-B-16/datacomp_xl_s13b_b90k"):
        assert name in said


@pytest.mark.ray
@pytest.mark.parametrize("preset", ["open", "open-composed"])
def test_small_models_of_its_classes_go_from_images_to_verified_tables(models, tmp_path, ray_session, preset):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(png(height=48, width=64, seed=1))
    settings = {
        "masks.weights.uri": models / "sam2",
        "captions.weights.uri": models / "vlm",
        "captions.options": "{crop_size: 56}",
        "filtering.architecture": "builtin:tiny/clip.json",
        "filtering.weights.uri": "random:0",
        # Untrained, SAM believes in none of its masks: take what comes.
        "masks.pred_iou_thresh": -10,
        "masks.stability_score_thresh": 0,
        "masks.points_per_side": 2,
        "masks.box_nms_thresh": 1,
        "masks.reduction": "{mask_nms_iou: 1, min_area: 0, max_area: 1, min_inside: 1, max_part_area: 0}",
        "captions.max_length": 8,
        "captions.sampling.top_p": "[0.9]",
        "compute": "{device: cpu, precision: float32, threads: 1}",
        "placement.fused": "{num_cpus: 1, num_gpus: 0, max_actors: 1}",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    ended = pseudoris_here("annotate", "images", "out", "--preset", preset, *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    masks = ds.dataset(tmp_path / "out" / "masks").to_table().to_pylist()
    expressions = ds.dataset(tmp_path / "out" / "expressions").to_table().to_pylist()
    assert len(masks) >= 2
    assert expressions
    drawn = [row for row in expressions if row["source"] == "model"]
    assert {row["target_mask_ids"][0] for row in drawn} <= {row["mask_id"] for row in masks}
    assert all((row["caption_score"] is None) == (preset == "open") for row in drawn)
    assert [row["text"] for row in drawn if row["kept"]] == [] or preset == "open"
    assert pseudoris_here("verify", "out", cwd=tmp_path).returncode == 0
