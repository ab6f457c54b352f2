"""The device comes from the config alone; fast passes give what plain ones give; a pretended GPU waits as one."""

import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.device import prepare_device, to_device, to_host
from pseudoris.workers.forward_passes import linear
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca
from tests.oracles.pretended_gpu import GpuTensor, pretended_gpu


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


CUDA = torch.device("cuda")


@pytest.fixture
def gpu():
    with pretended_gpu() as pretended:
        yield pretended


@pytest.fixture
def numbers(gpu):
    return torch.arange(6.0, device=CUDA)


READS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 2),
    "unique": lambda x: torch.unique(x),
    "unique with an inverse": lambda x: torch.unique(x, return_inverse=True),
    "masked_select": lambda x: x.masked_select(x > 2),
    "an index of bools": lambda x: x[x > 2],
    "an index in host memory": lambda x: x[torch.tensor([1, 2])],
    "a list as an index": lambda x: x[[1, 2]],
    "values at bools": lambda x: x.__setitem__(x > 2, x[:3] * 2),
    "a number at an index": lambda x: x.__setitem__(x.long(), 1.0),
    "counts without their sum": lambda x: x.repeat_interleave(x.long()),
    "a copy to the CPU": lambda x: x.cpu(),
    "a copy to the CPU by to": lambda x: x.to("cpu"),
    "a copy to the GPU": lambda x: torch.ones(2).to(x.device),
    "a copy to the GPU that is not pinned": lambda x: torch.ones(2).to(x.device, non_blocking=True),
    "a copy to the GPU that blocks": lambda x: torch.ones(2).pin_memory().to(x.device),
    "a tensor of values": lambda x: torch.tensor([1, 2], device=x.device),
}


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray])
def test_numpy_cannot_read_it(numbers, read):
    with pytest.raises(TypeError, match="Copy it to host memory first"):
        read(numbers)


@pytest.mark.parametrize("work", READS.values(), ids=READS)
def test_the_cpu_waits_once(gpu, numbers, work):
    work(numbers)
    assert len(gpu.waits) == 1


QUEUED = {
    "arithmetic": lambda x: (x * 2 + 1).softmax(0).sum(),
    "made there": lambda x: torch.zeros(3, device=x.device) + torch.full((3,), 2, device=x.device),
    "an index there": lambda x: x[(x + 0).long()],
    "slices": lambda x: x[1:3, None],
    "a number at a slice": lambda x: x.__setitem__(slice(2), 1.0),
    "a number at bools": lambda x: x.__setitem__(x > 2, 0.0),
    "counts with their sum": lambda x: x.repeat_interleave(x.long(), output_size=15),
    "another dtype": lambda x: x.to(torch.float64),
    "a pinned copy": lambda x: torch.ones(2).pin_memory().to(x.device, non_blocking=True),
    "a pinned copy back": lambda x: x.to("cpu", non_blocking=True),
}


@pytest.mark.parametrize("work", QUEUED.values(), ids=QUEUED)
def test_the_cpu_goes_on(gpu, numbers, work):
    work(numbers)
    assert gpu.waits == []


def test_results_are_on_the_gpu_until_they_are_copied(numbers):
    assert isinstance((numbers * 2)[1:], GpuTensor)
    assert (numbers.view(2, 3).sort(dim=1).values.device, numbers.new_zeros(2).device) == (CUDA, CUDA)
    back = (numbers * 2).cpu()
    assert (type(back), back.device.type, back.tolist()) == (torch.Tensor, "cpu", [0, 2, 4, 6, 8, 10])


def test_tensors_of_both_memories_do_not_mix(numbers):
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        numbers + torch.ones(6)


def test_it_refuses_a_sum_whose_bits_depend_on_timing(numbers):
    assert numbers.view(2, 3).cumsum(1).cpu().tolist() == [[0, 1, 3], [3, 7, 12]]
    assert numbers.long().cumsum(0).cpu().tolist() == [0, 1, 3, 6, 10, 15]
    with pytest.raises(RuntimeError, match="cumsum over one row: its bits depend on timing"):
        numbers[None].cumsum(1)


@pytest.mark.parametrize("target", [{"device": CUDA}, {"device": "cuda", "dtype": torch.float32}])
def test_a_module_moves_with_its_parameters(gpu, target):
    module = nn.Linear(6, 2).to(**target)
    assert all(isinstance(each, GpuTensor) for each in module.parameters())
    with pytest.raises(RuntimeError, match="same device"):
        module(torch.ones(6))
    module(torch.ones(6, device=CUDA)).sum().backward()
    assert module.weight.grad.shape == (2, 6)


def test_a_wait_names_the_function_that_waits(gpu, numbers):
    bool(numbers.any())
    assert gpu.waits[0].operation == "__bool__"
    assert gpu.waits[0].place == ("tests/workers/test_device.py:test_a_wait_names_the_function_that_waits")
