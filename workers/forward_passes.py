"""Compiles towers (`compute.is_compiled`), and shares open_clip's blocks. For `captions`, `filtering`, `masks`.

A `Block` shares the norms, layer scales, activation and weights of one of open_clip's attention blocks. Its linear
layers use the fastest product on the device; subclasses do the attention that open_clip does not offer. No program and
no product may be chosen by timing, because the choice decides bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.pass_sizes import LEAST_PACKED_INPUTS

# torch keeps at most this many compiled programs of one function, one for each shape.
_MAX_PROGRAMS = 128


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return rows (R, ...) followed by zeros, (count, ...)."""
    missing = count - len(rows)
    return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows


def compile_tower(tower: nn.Module) -> None:
    """Compile a module's forward pass in place: one program for each shape that it is called with."""
    # torch's compiler is imported here: it takes as long to import as torch, and most processes compile nothing.
    import torch._dynamo
    import torch._inductor.config

    # By default torch compiles eight shapes of a function and runs all others uncompiled, so the order of the work
    # would decide which eight. It may also choose kernels by timing.
    torch._dynamo.config.recompile_limit = _MAX_PROGRAMS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if not hasattr(torch._inductor.config, "deterministic"):
        raise ConfigError(
            f"compute.is_compiled=true, but torch {torch.__version__} chooses kernels by timing: "
            "install a later version, or --set compute.is_compiled=false"
        )
    torch._inductor.config.deterministic = True
    tower.compile(dynamic=False)


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the layer of `weight` (out, in) and `bias` (out,), which must not change: (..., in) to (..., out).

    Where it is known to be faster, it multiplies through oneDNN, by a copy of the weights in the layout of its kernels.
    MKL, which `F.linear` calls, runs its AVX2 kernels on CPUs that are not Intel's. Measured on an AMD EPYC with
    AVX-512, two threads, width 512: 1.3 times as fast over 656 rows, 3 times over 40 rows of a vocabulary's projection.
    """
    is_packed = (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[1] >= LEAST_PACKED_INPUTS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        # torch's own compiler uses these operators for linear layers. They are not public, so a version may lack them.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
    if not is_packed:
        return partial(F.linear, weight=weight, bias=bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    unbound = None if bias is None else bias.detach()
    return partial(torch.ops.mkldnn._linear_pointwise, W=packed, B=unbound, attr="none", scalars=[], algorithm="")


class Block(nn.Module):
    """The part that self-attention and cross-attention blocks share: everything after the heads."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of `block`, which must not change."""
        super().__init__()
        self.num_heads = int(block.attn.num_heads)
        self.ln_1, self.ln_2, self.ls_1, self.ls_2 = block.ln_1, block.ln_2, block.ls_1, block.ls_2
        # What adds to the residual stream: the heads' output and the MLP's.
        self.out_proj, self.c_proj = block.attn.out_proj, block.mlp.c_proj
        self.out = linear(block.attn.out_proj.weight, block.attn.out_proj.bias)
        self.widen = linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        self.activate = block.mlp.gelu
        self.narrow = linear(block.mlp.c_proj.weight, block.mlp.c_proj.bias)

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Return the block's output from its input and its heads' output, (P, D) each: projection, residuals, MLP."""
        x = x + self.ls_1(self.out(mixed))
        result: torch.Tensor = x + self.ls_2(self.narrow(self.activate(self.widen(self.ln_2(x)))))
        return result


class SelfAttentionBlock(Block):
    """A causal self-attention block."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of `block`, which must not change."""
        super().__init__(block)
        self.queries_keys_values = linear(block.attn.in_proj_weight, block.attn.in_proj_bias)
