"""What a stage asks of a GPU is counted, whether operations are computed or only seen."""

import json

import pytest
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from benchmarks import gpu_limits
from benchmarks.captioner import scenes_with
from benchmarks.pretended_gpu import pretended_gpu
from pseudoris.images.pixels import decode_proven
from pseudoris.workers.crops.crops import CropFormat, mask_crops

# Of an image, of 16 scenes of three masks in bfloat16: what a change must not raise. The prover decodes once more.
MOST = {
    "masks": {"kernels": 600, "reads": 4 / 16, "copies": 11, "decodes": 1},
    "captions": {"kernels": 1_450, "reads": 1, "copies": 26, "decodes": 0},
    "filter": {"kernels": 120, "reads": 2 / 16, "copies": 23, "decodes": 0},
}
NODES = torch.arange(32) % 9


def step(x, weight, nodes):
    """Gather rows, multiply them, and attend to them with two queries each."""
    rows = x.index_select(0, nodes)
    query = F.linear(rows, weight)
    return F.scaled_dot_product_attention(*(each.view(4, 4, 2, 64) for each in (query, rows, rows)))


def metered(*, is_hollow):
    x, weight = torch.ones(9, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16)
    meter = gpu_limits.Meter(is_hollow=is_hollow)
    with torch.inference_mode(), meter:
        return meter, step(x, weight, NODES)


def test_operations_that_are_only_seen_count_as_those_that_are_computed():
    (computed, result), (seen, made) = metered(is_hollow=False), metered(is_hollow=True)
    assert (computed.counts, computed.flops, computed.gpu_s) == (seen.counts, seen.flops, seen.gpu_s)
    assert result.shape == made.shape
    assert not torch.equal(result, made)


def test_kernels_operations_and_bytes_are_those_of_the_shapes():
    meter, _ = metered(is_hollow=True)
    product, attention, rows = 2 * 32 * 64 * 64, 2 * (16 * 2 * 2) * (64 + 64), 2 * 32 * 64
    assert meter.flops == {"bfloat16": product + attention}
    # The rest are views.
    assert meter.counts["kernels"] == 3
    assert (meter.counts["useful"], meter.counts["tiles"]) == (attention, 16 * 4 * 128 * 128 * 64)
    # What is gathered is read and written.
    assert meter.counts["bytes"] == (8 * 32 + 2 * rows) + (2 * rows + 2 * 64 * 64) + (3 * rows + rows)
    assert meter.gpu_s == 3 * 2.5e-6


def test_the_crops_of_an_image_are_copied_up_in_few_copies_and_without_a_wait():
    ((image,), scales) = scenes_with(10, 1).images, (None, 1.0, 1.1, 1.2)
    with pretended_gpu() as gpu:
        crop_format = CropFormat(224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        mask_crops(decode_proven(image.data), image.masks, scales, crop_format, torch.device("cuda"))
        assert gpu.num_copies <= 21
        assert not gpu.waits


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "rows.json"
    gpu_limits.main(["--preset", "tiny", "--images", "16", "--masks", "3", "--json", str(path)])
    return {row["stage"]: row for row in json.loads(path.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOST)
def test_a_stage_asks_a_gpu_for_no_more_than(rows, stage):
    row = rows[stage]
    assert {name: row[name] for name in MOST[stage] if row[name] > MOST[stage][name]} == {}
    assert row["host_s"] > 0
    assert row["ratio"] == row["modelled_s"] / row["limit_s"] > 1
