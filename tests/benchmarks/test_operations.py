"""Operations are those that the profiler counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.captioner import noise_crops, one_crop_kind
from benchmarks.operations import sampling_operations
from schemas.config_loading import load_config
from workers.checkpoints.models import load_coca


@pytest.fixture(scope="module")
def model():
    config = load_config("tiny").captions
    return load_coca(config.architecture, config.weights)


def counted(model, *, length, num_masks):
    """Operations of one step for one row, as torch counts those of open_clip's own forward."""
    crops = noise_crops(num_masks, model.visual.image_size[0]).pixels[0]
    with torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        tokens = model(crops)["image_embs"]
        with FlopCounterMode(display=False) as counter:
            _, text = model._encode_text(torch.full((1, length), 5))
            model.text_decoder(tokens, text.expand(num_masks, -1, -1))
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [1, 6])
def test_a_step_costs_what_torch_counts(model, length):
    config = one_crop_kind(load_config("tiny").captions, num_steps=8)
    # A caption of length - 1 tokens is live at every step up to `length`, the others at none beyond theirs.
    until = sampling_operations(model, [length - 1], config, num_masks=3)
    before = sampling_operations(model, [length - 2], config, num_masks=3)
    assert until - before == pytest.approx(counted(model, length=length, num_masks=3), rel=0.05)
