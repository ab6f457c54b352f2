"""The kind of device, for a run's identity; torch is loaded only where nothing else tells it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from pseudoris.schemas.config import ComputeConfig


def device_kind(compute: ComputeConfig) -> str:
    """Return the GPU's name, the CPU's architecture and vector capability, or `none` if no engine needs torch.

    Raises:
        ConfigError: compute.device=cuda, but torch sees no GPU.
    """
    if compute.device == "none":
        return "none"
    if compute.device == "cuda":
        # Imported here, not at the top: processes without models do not pay torch's load time and memory.
        import torch

        from pseudoris.workers.device import prepare_device

        prepare_device(compute)
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()} {_vector_capability()}"


def _vector_capability() -> str:
    """Return torch's name of the vector instructions that it uses: its own answer where torch is loaded.

    The process that starts a run does not use torch, which takes seconds to load. On x86-64 Linux it applies torch's
    rule (aten/src/ATen/native/DispatchStub.cpp); the processes that compute compare the answer with torch's own.
    """
    has_rule = sys.platform == "linux" and platform.machine() == "x86_64" and "ATEN_CPU_CAPABILITY" not in os.environ
    if "torch" in sys.modules or not has_rule:
        import torch

        return torch.backends.cpu.get_cpu_capability()
    flags = _cpu_flags()
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= flags:
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags else "DEFAULT"


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
