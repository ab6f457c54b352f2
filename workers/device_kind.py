"""The kind of device, for a run's identity; torch is loaded only if the run's engines need it."""

from __future__ import annotations

import platform

from pseudoris.schemas.config import ComputeConfig


def device_kind(compute: ComputeConfig) -> str:
    """Return the GPU's name, the CPU's architecture and vector capability, or `none` if no engine needs torch.

    Raises:
        ConfigError: compute.device=cuda, but torch sees no GPU.
    """
    if compute.device == "none":
        return "none"
    # Imported here, not at the top: processes without models do not pay torch's load time and memory.
    import torch

    from pseudoris.workers.device import prepare_device

    if compute.device == "cuda":
        prepare_device(compute)
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
