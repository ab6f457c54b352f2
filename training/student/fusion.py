"""The bridge between the towers: words read the image stage by stage, then an expression's patches read its words.

In the spirit of ETRIS's bridger (Xu et al., "Bridging Vision and Language Encoders", ICCV 2023): the towers stay as
they are, and narrow layers beside them take up what both say, at several depths of the image tower. What is of the
image alone is computed once for all of its expressions.
"""

from __future__ import annotations

import torch
from torch import nn

from training.learning.attention import CrossAttention, Perceptron, Products, SelfAttention


class ImageStage(nn.Module):
    """One stage of the image: what the tower says at this depth is taken up, patch by patch."""

    def __init__(self, image_width: int, width: int, *, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width))
        self.think = Perceptron(width, mlp_ratio, dropout=dropout)

    def forward(self, patches: torch.Tensor, stage: torch.Tensor) -> torch.Tensor:
        """Return patches (U, N, width), of patches and the tower's (U, N, image width)."""
        out: torch.Tensor = self.think(patches + self.project(stage))
        return out


class WordStage(nn.Module):
    """Words read the patches of a stage, then each other."""

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.read = CrossAttention(width, num_heads, dropout=dropout)
        self.attend = SelfAttention(width, num_heads, dropout=dropout)
        self.think = Perceptron(width, mlp_ratio, dropout=dropout)

    def forward(
        self, words: torch.Tensor, patches: torch.Tensor, is_word: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return words (T, L, width); patches are (T, N, width), or with `owners` (U, N, width)."""
        words = self.read(words, patches, owners=owners)
        out: torch.Tensor = self.think(self.attend(words, is_word=is_word))
        return out


class PatchRound(Products):
    """An expression's patches read its words, are held against them, and show roughly where they point."""

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: int) -> None:
        super().__init__(width, num_heads)
        self.out = nn.Linear(3 * width, width)
        # Without drop-out: of so many tokens drawing it costs more than it helps.
        self.think = Perceptron(width, mlp_ratio, dropout=0.0)
        # Without a bias: patches compete in a softmax.
        self.show = nn.Linear(width, 1, bias=False)

    def forward(
        self, patches: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patches (T, N, width) and logits (T, N) of the target at each."""
        patches = self.think(patches + self.out(self.held_against(patches, words, is_word)))
        return patches, self.show(patches)[..., 0]


def grid_places(grid: int, width: int) -> torch.Tensor:
    """Return places (grid · grid, width) of patches row by row: sines and cosines of x and y in octaves.

    Half of the width tells x, half y; wavelengths run from twice the image down to four patches.
    """
    steps = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    octaves = torch.linspace(0, torch.log2(torch.tensor(grid / 2.0)).item(), width // 4)
    angles = torch.pi * steps[:, None] * 2**octaves
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return torch.cat([waves[x.flatten()], waves[y.flatten()]], 1)
