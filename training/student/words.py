"""The words of an expression: the text tower's features, and a fixed code that tells any two tokens apart."""

from __future__ import annotations

import torch
from torch import nn

from training.learning.attention import Perceptron, SelfAttention
from training.learning.towers import SeenTexts
from training.learning.word_codes import word_codes

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

    def forward(self, texts: SeenTexts) -> torch.Tensor:
        """Return words (T, L, width)."""
        words = self.of_tower(self.norm(texts.words)) + self.place[: texts.words.shape[1]]
        if self.of_code is not None:
            words = words + self.of_code(word_codes(texts.tokens, self._code_width))
        words = self.attention(words, is_word=texts.is_word)
        perceived: torch.Tensor = self.perceptron(words)
        return perceived
