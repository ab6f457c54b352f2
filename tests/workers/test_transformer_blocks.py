"""A block over shared weights is the block it was made of.

A linear layer is the same whichever library multiplies it.
"""

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn

from pseudoris.workers.captions.cached_towers import CrossAttention, NodeCache, SelfAttention
from pseudoris.workers.forward_passes import Block, PackedLinear, SharedLinear, finish_block, linear


def made(*, width=256, dtype=torch.float32, is_cross=False, activation=nn.GELU, scale=None):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(width, 4, ls_init_value=scale, act_layer=activation, is_cross_attention=is_cross)
    return block.eval().to(dtype).requires_grad_(False)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def causal(length, dtype):
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-5), ({"activation": QuickGELU}, 1e-5), ({"scale": 0.3}, 1e-5), ({"dtype": torch.float64}, 1e-12)],
    ids=["packed", "quick_gelu", "layer_scale", "float64"],
)
def test_positions_one_by_one_are_the_whole_sequence(options, tolerance):
    block = made(**options)
    dtype = options.get("dtype", torch.float32)
    x = random(3, 5, 256, dtype=dtype)
    expected = block(x, attn_mask=causal(5, dtype))
    step, cache, found = SelfAttention(block), NodeCache(1, 4, 256, like=x), []
    nodes = torch.arange(15).view(5, 3).t()
    for position in range(5):
        first = cache.reserve(3)
        found.append(step.step(x[:, position], cache, layer=0, first=first, nodes=nodes[:, : position + 1]))
    torch.testing.assert_close(torch.stack(found, dim=1), expected, rtol=tolerance, atol=tolerance)


def test_rows_attend_to_the_image_of_their_crop():
    block = made(is_cross=True)
    x, image = random(5, 256), random(2, 7, 256, seed=1)
    crops = torch.tensor([0, 0, 0, 1, 1])
    each = [block(x[i : i + 1, None], k_x=image[c : c + 1], v_x=image[c : c + 1]) for i, c in enumerate(crops)]
    expected = torch.cat(each)[:, 0]
    ours = CrossAttention(block)
    slots = torch.tensor([0, 1, 2, 3, 4])
    found = ours.step(x, ours.queries(x), keys_values=ours.keys_values(image), slots=slots, rows_a_crop=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_are_packed_where_they_are_multiplied_as_they_are_and_shared_where_they_are_compiled():
    block = made()
    assert isinstance(Block(block, finish=finish_block).widen, PackedLinear)
    assert isinstance(Block(block, finish=lambda *given: finish_block(*given)).widen, SharedLinear)


def weights(inputs=256, outputs=300, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
    return made.to(dtype), torch.randn(outputs, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", [(1,), (7,), (40,), (700,), (3, 5)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_packed_weights_give_what_plain_ones_give(shape, has_bias):
    weight, bias = weights()
    layer = linear(weight, bias if has_bias else None)
    x = torch.randn(*shape, 256, generator=torch.Generator().manual_seed(1))
    assert isinstance(layer, PackedLinear)
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias if has_bias else None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_share_their_weights(dtype):
    weight, bias = weights(dtype=dtype)
    layer, x = linear(weight, bias), torch.ones(2, 256, dtype=dtype)
    assert isinstance(layer, SharedLinear)
    assert torch.equal(layer(x), F.linear(x, weight, bias))
