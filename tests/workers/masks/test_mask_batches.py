"""On a GPU, which is pretended, SAM answers the points of several images at once."""

import copy
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam_model import PromptableSam, load_sam
from tests.oracles.pretended_gpu import pretended_gpu

# Each image has several crops, and none has the size that SAM sees.
SIZES = [(60, 90), (90, 60), (130, 75), (33, 200), (64, 64)]


@pytest.fixture
def gpu():
    with pretended_gpu() as pretended:
        yield pretended


@pytest.fixture
def generator_of(gpu, sam, masks_config):
    def build(dtype=torch.float32, **overrides):
        config = masks_config(crop_n_layers=1, **overrides)
        return MaskGenerator(PromptableSam(copy.deepcopy(sam).to("cuda"), dtype=dtype), config)

    return build


@pytest.fixture
def images(draw_image):
    return [draw_image(*size, seed) for seed, size in enumerate(SIZES)]


def values(proposals):
    return proposals.size, proposals.counts, proposals.predicted_iou.tobytes(), proposals.stability.tobytes()


@pytest.fixture
def shipped(gpu):
    """A builder of generators over the trained SAM: its products are wide enough for bits to depend on their rows."""
    config = load_config("tiny").masks
    sam = load_sam(config.architecture, config.weights).to("cuda")
    # Few points, so that those of an image do not fill a pass, and an encoder of four crops.
    update = {"points_per_side": 5, "points_per_batch": 64, "crop_n_layers": 0}

    def build(dtype, min_area):
        changed = config.model_copy(update={**update, "min_mask_region_area": min_area})
        return MaskGenerator(PromptableSam(sam, dtype=dtype), changed)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "min_area"), [(torch.float32, 0), (torch.bfloat16, 30)])
def test_an_image_has_the_same_bits_alone_beside_others_and_in_another_order(shipped, dtype, min_area):
    generate = shipped(dtype, min_area)
    scenes = [render(make_scene(Split.DEMO, position)).image for position in range(3)]
    images = [
        np.array(Image.fromarray(pixels).resize(size))
        for pixels, size in zip(scenes, [(192, 192), (256, 160), (90, 130)], strict=True)
    ]
    alone = [values(generate(image)) for image in images]
    assert all(counts for _, counts, *_ in alone)
    assert [values(each) for each in generate.together(images)] == alone
    assert [values(each) for each in generate.together(images[::-1])] == alone[::-1]


@pytest.mark.parametrize("images_together", [1, 5])
def test_the_cpu_waits_three_times_a_batch_whatever_it_holds(gpu, generator_of, images, images_together):
    generate = generator_of()
    before = len(gpu.waits)
    generate.together(images[:images_together])
    assert len(gpu.waits) - before <= 3, gpu.waits[before:]


class SmallMemory(TorchFunctionMode):
    """A GPU without room for large tensors."""

    def __init__(self, max_bytes):
        super().__init__()
        self.max_bytes = max_bytes

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.__name__ == "new_empty" and result.nbytes > self.max_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result


def test_without_memory_for_all_images_it_goes_on_with_fewer_and_says_so_once(generator_of, images, caplog):
    generate = generator_of()
    expected = [values(each) for each in generate.together(images)]
    num_points = 8 * 8 * 5
    with SmallMemory(4 * 2 * 3 * 32 * 32 * num_points * 2), caplog.at_level(logging.WARNING):
        found = [values(each) for each in generate.together(images)]
        generate.together(images[: generate.images_together])
    assert found == expected
    (record,) = caplog.records
    assert record.getMessage() == (
        "5 images do not fit into the GPU's memory together: continuing with 2, which changes no result; to make room, "
        "lower masks.points_per_batch (now 24) in a new run"
    )


def test_memory_that_is_too_small_for_one_image_is_an_error(generator_of, images):
    generate = generator_of()
    with SmallMemory(0), pytest.raises(torch.OutOfMemoryError):
        generate.together(images)


def test_an_image_that_raises_costs_itself_alone(gpu, masks_config, shard_of, draw_image):
    config = load_config("tiny", assignments=["compute.device=cuda", "placement.fused.num_gpus=1"])
    propose, (first, second) = SamProposer(masks_config(), config.compute), (draw_image(60, 90), draw_image(90, 40))
    fine = propose(shard_of(first, second)).images
    *found, broken = propose(shard_of(first, second, b"not an image")).images
    assert broken.failure.reason == "not_an_image"
    assert [image.masks for image in found] == [image.masks for image in fine]
    assert all(image.masks for image in fine)
