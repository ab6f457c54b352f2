"""The device comes from the config alone."""

import warnings

import numpy as np
import pytest
import torch

from benchmarks.pretended_gpu import pretended_gpu
from pseudoris.schemas.config import ComputeConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.device import prepare_device, to_device, to_host


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


def test_cuda_takes_no_attention_that_is_built_anew_for_each_shape():
    cuda = torch.backends.cuda
    was_enabled = cuda.cudnn_sdp_enabled()
    with pretended_gpu():
        prepare_device(ComputeConfig(device="cuda"))
        assert not cuda.cudnn_sdp_enabled()
    assert cuda.cudnn_sdp_enabled() == was_enabled


def test_cuda_sums_half_precision_in_float32():
    matmul = torch.backends.cuda.matmul
    with pretended_gpu():
        prepare_device(ComputeConfig(device="cuda"))
        flags = (matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction)
    assert flags == (False, False)


def test_the_config_sets_the_threads():
    before = torch.get_num_threads()
    try:
        assert prepare_device(ComputeConfig(device="cpu", threads=2)) == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_cpu_waits_once_for_all_tensors_of_a_gpu():
    with pretended_gpu() as gpu:
        there = to_device(np.arange(3), torch.device("cuda"))
        assert [array.tolist() for array in to_host(there, there + 1)] == [[0, 1, 2], [1, 2, 3]]
    assert len(gpu.waits) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_their_way_to_a_gpu_nothing_is_lost():
    device = torch.device("cuda")
    assert [to_device(np.full(4, number), device).tolist() for number in range(50)] == [[n] * 4 for n in range(50)]
