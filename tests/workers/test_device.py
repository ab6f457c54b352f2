"""The device comes from the config alone; packed and compiled passes give what plain ones give."""

import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.device import prepare_device, to_device, to_host
from pseudoris.workers.forward_passes import linear
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca
from tests.oracles.pretended_gpu import pretended_gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused_and_never_falls_back():
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        prepare_device(ComputeConfig(device="cuda"))


def test_a_driver_that_is_too_old_is_told_in_the_one_sentence(monkeypatch, recwarn):
    def warns():
        warnings.warn("The NVIDIA driver is too old (found version 11040). Please update it: https://…", stacklevel=2)
        return False

    monkeypatch.setattr("torch.cuda.is_available", warns)
    with pytest.raises(ConfigError, match=r"no GPU \(The NVIDIA driver is too old \(found version 11040\)\): fix"):
        prepare_device(ComputeConfig(device="cuda"))
    assert not recwarn


def test_an_engine_with_torch_is_refused_where_none_is_expected():
    with pytest.raises(ConfigError, match="this one needs torch: set cpu or cuda"):
        prepare_device(ComputeConfig(device="none"))


def test_cuda_takes_no_kernel_that_timing_or_a_shape_or_the_order_of_a_sum_chooses():
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    was_enabled = cuda.cudnn_sdp_enabled()
    flags = cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
    with pretended_gpu(), flags:
        prepare_device(ComputeConfig(device="cuda"))
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False)
        assert not cuda.cudnn_sdp_enabled()
        assert not cuda.matmul.allow_bf16_reduced_precision_reduction
        assert not cuda.matmul.allow_fp16_reduced_precision_reduction
    assert cuda.cudnn_sdp_enabled() == was_enabled


def test_the_config_sets_the_threads():
    assert prepare_device(ComputeConfig(device="cpu", threads=2)) == torch.device("cpu")
    assert torch.get_num_threads() == 2


def test_the_cpu_waits_once_for_all_tensors_of_a_gpu():
    with pretended_gpu() as gpu:
        there = to_device(np.arange(3), torch.device("cuda"))
        assert [array.tolist() for array in to_host(there, there + 1)] == [[0, 1, 2], [1, 2, 3]]
    assert len(gpu.waits) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_their_way_to_a_gpu_nothing_is_lost():
    device = torch.device("cuda")
    assert [to_device(np.full(4, number), device).tolist() for number in range(50)] == [[n] * 4 for n in range(50)]


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
