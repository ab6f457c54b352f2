"""Where a stage computes and in which precision, from the config alone."""

from __future__ import annotations

import platform

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.config import ComputeConfig
from schemas.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_device(compute: ComputeConfig) -> torch.device:
    """Return the device, with threads and deterministic settings in force for this process.

    Raises:
        ConfigError: compute.device=cuda where torch sees no GPU; a silent fallback would take weeks.
    """
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("compute.device=cuda, but torch sees no GPU: mend the driver or --set compute.device=cpu")
        # Timing decides between kernels under benchmark: the same run would not give the same bytes.
        torch.backends.cudnn.benchmark = False
        # cuDNN's backward kernels sum in any order, and a transposed convolution (SAM's mask decoder) runs on them.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(compute.device)


def compute_dtype(compute: ComputeConfig) -> torch.dtype:
    """Return the dtype that models compute in; scores and softmax stay in float32."""
    return _DTYPES[compute.precision]


def to_device(values: NDArray[np.generic] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return an array or tensor of this machine's memory on `device`, in its own dtype.

    On its way to a GPU it lies in pinned memory, so that the copy waits for nothing the GPU is computing, and nothing
    waits for the copy.
    """
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_kind(compute: ComputeConfig) -> str:
    """Return what stands in a run's identity: the GPU's name, or the CPU's architecture and vector capability."""
    if compute.device == "cuda":
        prepare_device(compute)
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
