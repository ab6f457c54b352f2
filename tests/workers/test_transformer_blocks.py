"""A block over shared weights is the block it was made of.

A linear layer is the same whichever library multiplies it.
"""

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pseudoris.workers.forward_passes import Block, PackedLinear, SharedLinear, finish_block, linear


def made(*, width=256, dtype=torch.float32, is_cross=False, activation=nn.GELU, scale=None):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(width, 4, ls_init_value=scale, act_layer=activation, is_cross_attention=is_cross)
    return block.eval().to(dtype).requires_grad_(False)


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
