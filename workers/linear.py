"""Linear layers over weights that are kept anyway, as the device multiplies them fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Narrower layers spend more time on calls than on arithmetic, and gain nothing.
_LEAST_INPUTS = 256


class SharedLinear(nn.Module):
    """`F.linear` with weights that belong to another module: (..., in) to (..., out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Share `weight` (out, in) and `bias` (out,)."""
        super().__init__()
        self._weight, self._bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x · weightᵀ + bias."""
        return F.linear(x, self._weight, self._bias)


class PackedLinear(nn.Module):
    """The same through oneDNN, on weights laid out once as its kernels read them; a copy of theirs.

    MKL, which `F.linear` calls, runs its AVX2 kernels on CPUs that are not Intel's. Measured on an AMD EPYC with
    AVX-512, two threads, width 512: 1.3 times as fast over 656 rows, 3 times over 40 rows of a vocabulary's projection.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Lay out `weight` (out, in), float32 on the CPU; it must not change afterwards."""
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x · weightᵀ + bias."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> SharedLinear | PackedLinear:
    """Return the layer of `weight` (out, in) and `bias` (out,), packed where that is known to be faster."""
    is_packed = (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[1] >= _LEAST_INPUTS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        # Operators that torch's own compiler puts in place of linear layers; they are no public interface.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
    return PackedLinear(weight, bias) if is_packed else SharedLinear(weight, bias)
