"""Building and asking the three instance priors."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.masks import instance_priors
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.instance_detector import InstanceDetector
from pseudoris.workers.masks.instance_priors import DetectorPrior, NoPrior, TablePrior, build_prior, prior_digest
from pseudoris.workers.masks.reduction import reduce_proposals

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
    return MaskGenerator(sam, masks_config())(pixels)


def test_none_reduces_by_rules(masks_config, pixels, proposals):
    config = masks_config()
    prior = build_prior(config, CPU)
    assert isinstance(prior, NoPrior)
    kept = prior(IMAGE, pixels, proposals)
    assert 0 < len(kept) < len(proposals)
    assert kept == reduce_proposals(proposals, config.reduction)


def test_table_names_the_row_that_chose_a_mask(masks_config, table, pixels, proposals):
    prior = build_prior(masks_config(prior=PriorConfig(kind="table", path=table)), CPU)
    assert isinstance(prior, TablePrior)
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
    monkeypatch.setattr(instance_priors, "load_detector", lambda path: OneDetection())
    prior = build_prior(masks_config(prior=PriorConfig(kind="torchvision", path="cutler.pth")), CPU)
    assert isinstance(prior, DetectorPrior)
    assert [one.prior for one in prior(IMAGE, pixels, proposals)] == ["torchvision:0"]


def test_the_option_iou_takes_another_mask_than_intersection(pixels, proposals):
    detector = InstanceDetector(OneDetection(), CPU, min_score=0.5)
    chosen = [
        DetectorPrior(detector, PriorConfig(kind="torchvision", path="x", match=match))(IMAGE, pixels, proposals)[0].row
        for match in ("intersection", "iou")
    ]
    by_intersection, by_iou = proposals.areas_px[chosen]
    assert by_intersection >= by_iou


def test_a_missing_table_is_refused_when_the_stage_is_built(masks_config):
    with pytest.raises(ConfigError, match=r"prior\.path=nowhere\.parquet cannot be read"):
        build_prior(masks_config(prior=PriorConfig(kind="table", path="nowhere.parquet")), CPU)


def test_the_digest_of_a_prior_is_that_of_its_file(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(b"{}")
    assert prior_digest(PriorConfig(kind="table", path=str(path))) == hashlib.sha256(b"{}").hexdigest()
    assert prior_digest(PriorConfig()) is None
