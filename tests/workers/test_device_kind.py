"""The kind of device that an identity names."""

import torch

from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.device_kind import device_kind


def test_the_device_kind_of_a_cpu_names_its_vector_capability():
    assert device_kind(ComputeConfig(device="cpu")).endswith(torch.backends.cpu.get_cpu_capability())


def test_without_torch_no_device_is_named():
    assert device_kind(ComputeConfig(device="none")) == "none"
