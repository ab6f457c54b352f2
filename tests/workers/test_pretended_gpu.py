"""The pretended GPU waits where a real one does, and refuses what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles.pretended_gpu import GpuTensor, pretended_gpu

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
    assert gpu.waits[0].place == ("tests/workers/test_pretended_gpu.py:test_a_wait_names_the_function_that_waits")
