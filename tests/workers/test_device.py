"""The device comes from the config alone."""

import pytest
import torch

from schemas.config import ComputeConfig
from schemas.errors import ConfigError
from workers.device import compute_dtype, device_kind, prepare_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused_and_never_falls_back():
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        prepare_device(ComputeConfig(device="cuda"))


def test_cuda_takes_no_kernel_that_timing_or_the_order_of_a_sum_chooses(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cudnn = torch.backends.cudnn
    try:
        with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            prepare_device(ComputeConfig(device="cuda"))
            assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False)
    finally:
        torch.set_num_threads(before)


def test_the_config_sets_the_threads():
    before = torch.get_num_threads()
    try:
        assert prepare_device(ComputeConfig(device="cpu", threads=2)) == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_device_kind_of_a_cpu_names_its_vector_capability():
    assert device_kind(ComputeConfig(device="cpu")).endswith(torch.backends.cpu.get_cpu_capability())


def test_each_precision_has_a_dtype():
    assert compute_dtype(ComputeConfig(precision="bfloat16")) is torch.bfloat16
