"""Operations and bytes are those that torch's own counter and the shapes give."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.captioner import noise_crops, one_crop_kind
from benchmarks.operation_counts import counting, sampling_operations
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.openclip import load_coca


def count(work):
    """Return floating-point operations and bytes of one call of `work`."""
    with counting() as so_far:
        work()
        return so_far()


def test_attention_on_a_cpu_is_counted():
    queries, keys = torch.ones(2, 4, 5, 16), torch.ones(2, 4, 9, 16)
    with torch.inference_mode():
        operations, _ = count(lambda: F.scaled_dot_product_attention(queries, keys, keys))
    assert operations == 2 * 2 * (2 * 4 * 5 * 9 * 16)


@torch.inference_mode()
def test_views_move_nothing_and_copies_both_ways():
    x = torch.ones(4, 6)
    assert count(lambda: x.reshape(24).unsqueeze(0).chunk(2, dim=1)[0].contiguous()) == (0, 0)
    assert count(lambda: x.t().contiguous()) == (0, 2 * 4 * 24)
    assert count(lambda: torch.empty(4, 6).copy_(x)) == (0, 2 * 4 * 24)


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
