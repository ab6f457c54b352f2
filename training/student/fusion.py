"""The words of an expression, and the layers that fuse them with the image.

Words are the text tower's features beside a fixed code that differs for any two tokens. They read the image stage by
stage; then an expression's patches read its words. In the spirit of ETRIS's bridger (Xu et al., "Bridging Vision and
Language Encoders", ICCV 2023): the towers stay frozen, and narrow layers beside them combine both at several depths of
the image tower. What depends on the image alone is computed once for all of its expressions.
"""

from __future__ import annotations

import torch
from torch import nn

from pseudoris.training.learning.frozen_towers import TowerTexts
from pseudoris.training.learning.token_layers import (
    CrossAttention,
    Perceptron,
    ProductAttention,
    SelfAttention,
    word_codes,
)

# Source: CLIP's context is 77 tokens; positions beyond the tower's own are never used.
_MAX_TOKENS = 77


class WordReader(nn.Module):
    """Brings words to the width of the fusion, and lets them read each other."""

    def __init__(self, text_width: int, width: int, *, code_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self._code_width = code_width
        self.norm = nn.LayerNorm(text_width)
        self.of_tower = nn.Linear(text_width, width)
        self.of_code = nn.Linear(code_width, width, bias=False) if code_width else None
        self.place = nn.Parameter(torch.randn(_MAX_TOKENS, width) * 0.1)
        self.attention = SelfAttention(width, num_heads, dropout=dropout)
        self.perceptron = Perceptron(width, 2, dropout=dropout)

    def forward(self, texts: TowerTexts) -> torch.Tensor:
        """Return words (T, L, width)."""
        words = self.of_tower(self.norm(texts.words)) + self.place[: texts.words.shape[1]]
        if self.of_code is not None:
            words = words + self.of_code(word_codes(texts.tokens, self._code_width))
        words = self.attention(words, is_word=texts.is_word)
        perceived: torch.Tensor = self.perceptron(words)
        return perceived


class ImageStage(nn.Module):
    """One stage of the image: adds the tower's features of this depth, patch by patch."""

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


class PatchRound(ProductAttention):
    """An expression's patches read its words, are multiplied with them, and show roughly where they point."""

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
        patches = self.think(patches + self.out(self.compared_with_words(patches, words, is_word)))
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
