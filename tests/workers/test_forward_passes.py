"""Compiled passes give what plain ones give, from a few programs."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.forward_passes import bucket, compile_rows, linear
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")


@pytest.mark.parametrize(
    ("count", "size"), [(1, 64), (64, 64), (65, 96), (97, 128), (129, 192), (200, 256), (3000, 3072)]
)
def test_rows_are_rounded_up_to_a_bucket(count, size):
    assert bucket(count) == size


@pytest.mark.slow
def test_rows_of_one_bucket_and_layers_of_one_kind_share_a_program(monkeypatch):
    torch.compiler.reset()
    programs = []
    real = torch.compile

    def backend(graph, _):
        programs.append(graph)
        return graph.forward

    def add(module, x, other):
        return module(x) + other

    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=backend, **options))
    run, layers = compile_rows(add), [nn.Linear(4, 4), nn.Linear(4, 4)]
    with torch.inference_mode():
        for layer in layers:
            for rows in (3, 50, 64):
                x, other = torch.rand(rows, 4), torch.rand(rows, 4)
                torch.testing.assert_close(run(layer, x, other), add(layer, x, other))
        assert len(programs) == 1
        run(layers[0], torch.rand(65, 4), torch.rand(65, 4))
        assert len(programs) == 2


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
