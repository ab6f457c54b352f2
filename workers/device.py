"""Prepares torch as `compute` asks (device, dtype, repeatable kernels), and copies between host and device.

The engines of `workers`, their towers and crops, `training`, and a run's identity use it. Its switches decide the bits
of a run, and none may let a kernel be chosen by timing.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_device(compute: ComputeConfig) -> torch.device:
    """Return the device, after setting this process's threads and deterministic algorithms.

    Raises:
        ConfigError: compute.device=cuda, but torch sees no GPU: on a CPU the run would take weeks. Or it is `none`.
    """
    if compute.device == "none":
        raise ConfigError("compute.device=none is for engines without torch, and this one needs torch: set cpu or cuda")
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda":
        with warnings.catch_warnings(record=True, action="always") as told:
            sees_one = torch.cuda.is_available()
        if not sees_one:
            why = "".join(f" ({str(each.message).partition('. ')[0]})" for each in told[:1])
            raise ConfigError(
                f"compute.device=cuda, but torch sees no GPU{why}: fix the driver, or compute on CPUs, slowly: "
                "--on-cpus"
            )
        # `benchmark` would choose kernels by timing, so that two runs would differ in bytes.
        torch.backends.cudnn.benchmark = False
        # On: cuDNN's backward kernels otherwise sum in any order, and a transposed convolution (SAM's mask decoder)
        # uses them.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        # Off: cuDNN builds a program per new shape, and each image brings new ones: 1.0 s per image became 4.5 to 5.9 s
        # (captions of `base` in bfloat16, ten masks, H200).
        torch.backends.cuda.enable_cudnn_sdp(False)
        matmul = torch.backends.cuda.matmul
        matmul.allow_tf32 = False
        # These settings would let parts of a sum be rounded to half precision before they are added.
        matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
    return torch.device(compute.device)


def compute_dtype(compute: ComputeConfig) -> torch.dtype:
    """Return the dtype that models compute in. Scores and softmax stay in float32."""
    return _DTYPES[compute.precision]


def to_device(values: NDArray[np.generic] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return an array or tensor from host memory on `device`, in its own dtype.

    For a GPU it is copied through pinned memory, so that copy and computation do not wait for each other.
    """
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: torch.Tensor) -> tuple[NDArray[Any], ...]:
    """Return tensors of one device, at least one, as arrays in host memory; on a CPU they share memory.

    All are copied from a GPU together, so that the CPU waits for it once.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return tuple(tensor.numpy() for tensor in tensors)
    # torch copies into pinned memory here, so the CPU waits only once, below.
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    torch.cuda.current_stream(device).synchronize()
    return tuple(copy.numpy() for copy in copies)
