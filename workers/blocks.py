"""open_clip's attention blocks over their own weights, for forward passes that open_clip does not have.

A block here shares the norms, layer scales and activation of one of open_clip's, and multiplies with its weights in the
way that the device is fastest; what the heads do is left to the subclasses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from workers.linear import SharedLinear, linear


class Block(nn.Module):
    """What self-attention and cross-attention blocks have in common: all that follows the heads."""

    def __init__(self, block: ResidualAttentionBlock, *, finish: Finish) -> None:
        """Share the weights of `block`, which must not change; `finish` is `finish_block` or its compiled form."""
        super().__init__()
        self.num_heads = int(block.attn.num_heads)
        self.ln_1, self.ln_2, self.ls_1, self.ls_2 = block.ln_1, block.ln_2, block.ls_1, block.ls_2
        # A compiler lays weights out itself, and knows its own operators best.
        self.linear = linear if finish is finish_block else SharedLinear
        self.out = self.linear(block.attn.out_proj.weight, block.attn.out_proj.bias)
        self.widen = self.linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        self.activate = block.mlp.gelu
        self.narrow = self.linear(block.mlp.c_proj.weight, block.mlp.c_proj.bias)
        self._finish = finish

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Return the block's output for its input and its heads' output, (P, D) each."""
        return self._finish(self, x, mixed)


Finish = Callable[[Block, torch.Tensor, torch.Tensor], torch.Tensor]


def finish_block(block: Block, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Return what `block` makes of its input and its heads' output, (P, D) each: projection, residuals, MLP."""
    x = x + block.ls_1(block.out(mixed))
    result: torch.Tensor = x + block.ls_2(block.narrow(block.activate(block.widen(block.ln_2(x)))))
    return result
