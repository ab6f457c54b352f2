"""Compiled passes give what plain ones give, from a few programs."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F

from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.forward_passes import linear
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


@needs_compiler
@pytest.mark.long
def test_a_compiled_engine_draws_the_same_captions():
    torch.compiler.reset()
    config = captions_config(max_length=6)
    image = image_crops(num_masks=3)
    plain = coca_engine(small_coca(), SPECIAL, config, seed=0).generate(image)
    compiled = coca_engine(small_coca(), SPECIAL, config, seed=0, is_compiled=True).generate(image)
    assert [caption.tokens for caption in compiled] == [caption.tokens for caption in plain]


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
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias if has_bias else None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_share_their_weights(dtype):
    weight, bias = weights(dtype=dtype)
    layer, x = linear(weight, bias), torch.ones(2, 256, dtype=dtype)
    assert torch.equal(layer(x), F.linear(x, weight, bias))
