"""Building and asking the three instance priors."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.masks import instances
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.instances import build_prior, load_detector
from pseudoris.workers.masks.sam_model import PromptableSam
from pseudoris.workers.stages import prior_digest

CPU = torch.device("cpu")
IMAGE = ShardImage(position=0, image_id="0" * 16, key="photos/a.png")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "instances.parquet"
    pq.write_table(pa.table({"key": [IMAGE.key] * 2, "box_xyxy_px": [[0, 0, 10, 10], [20, 20, 40, 40]]}), path)
    return str(path)


@pytest.fixture
def pixels(draw_image):
    return draw_image(64, 64)


@pytest.fixture
def proposals(sam, masks_config, pixels):
    return MaskGenerator(PromptableSam(sam), masks_config())(pixels)


def test_table_names_the_row_that_chose_a_mask(masks_config, table, pixels, proposals):
    prior = build_prior(masks_config(prior=PriorConfig(kind="table", path=table)), CPU)
    kept = prior(IMAGE, pixels, proposals)
    assert {one.prior for one in kept} == {"table:0", "table:1"}
    assert prior(ShardImage(position=1, image_id="1" * 16, key="b.png"), pixels, proposals) == []


class OneDetection(nn.Module):
    """Sees the upper left quarter of every image as an instance."""

    def forward(self, images):
        masks = torch.zeros(1, 1, *images[0].shape[-2:])
        masks[..., :32, :32] = 1.0
        return [{"scores": torch.ones(1), "masks": masks}]


def test_torchvision_names_the_detection_that_chose_a_mask(masks_config, pixels, proposals, monkeypatch):
    monkeypatch.setattr(instances, "load_detector", lambda path: OneDetection())
    prior = build_prior(masks_config(prior=PriorConfig(kind="torchvision", path="cutler.pth")), CPU)
    assert [one.prior for one in prior(IMAGE, pixels, proposals)] == ["torchvision:0"]


def test_a_prior_that_is_unset_is_refused_with_both_ways_to_decide(masks_config):
    unset = PriorConfig(kind="unset")
    for start in (lambda: build_prior(masks_config(prior=unset), CPU), lambda: prior_digest(unset)):
        with pytest.raises(
            ConfigError, match=r"docs/guides/priors\.md .* masks\.prior\.path=FILE.* masks\.prior\.kind=none"
        ):
            start()


@pytest.mark.slow
def test_a_checkpoint_of_torchvisions_mask_rcnn_is_loaded_with_its_classes(tmp_path):
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path / "cutler.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    loaded = load_detector(str(path)).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.zeros(1)}, "other.pth has not roi_heads.*: give a checkpoint of torchvision's Mask"),
        ([1, 2], "other.pth is no table of tensors"),
        ({"roi_heads.box_predictor.cls_score.bias": torch.zeros(2)}, "has not .* one of roi_heads.box_head.fc6.weight"),
        (
            dict.fromkeys(("roi_heads.box_predictor.cls_score.bias", "roi_heads.box_head.fc6.weight"), torch.zeros(2)),
            "does not fit torchvision's maskrcnn_resnet50_fpn",
        ),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path, state, message):
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(ConfigError, match=message):
        load_detector(str(path))


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.pth cannot be read as tensors"):
        load_detector(str(tmp_path / "nowhere.pth"))
