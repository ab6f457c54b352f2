"""The kind of device that an identity names."""

import os
import subprocess
import sys

import pytest
import torch

from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers import stages as module
from pseudoris.workers.stages import device_kind

ASKED = """
import sys
from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.stages import device_kind
print(device_kind(ComputeConfig(device="cpu")), "torch" in sys.modules)
"""


def test_the_device_kind_of_a_cpu_names_its_vector_capability():
    assert device_kind(ComputeConfig(device="cpu")).endswith(torch.backends.cpu.get_cpu_capability())


def _asked(**environment):
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env={**os.environ, **environment}, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what the CPU can")
def test_a_process_without_torch_gives_torchs_answer_and_does_not_load_it():
    assert _asked() == f"{device_kind(ComputeConfig(device='cpu'))} False"


@pytest.mark.slow
def test_a_capability_that_the_user_sets_is_asked_of_torch():
    assert _asked(ATEN_CPU_CAPABILITY="default").endswith("DEFAULT True")


@pytest.mark.parametrize(
    ("flags", "capability"),
    [
        ({"avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq"}, "AVX512"),
        ({"avx2", "fma", "avx512f"}, "AVX2"),
        ({"avx2"}, "DEFAULT"),
    ],
)
def test_without_torch_its_rule_is_applied_to_what_the_cpu_can(monkeypatch, flags, capability):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "_cpu_flags", lambda: flags)
    assert device_kind(ComputeConfig(device="cpu")) == f"cpu x86_64 {capability}"
