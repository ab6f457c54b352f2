"""Residual layers of words and patches, fixed codes of tokens. For `chooser`, `ppt` and experiments.

The names of parameters are keys of checkpoints: they must not change. Attention is written out: for a dozen words,
PyTorch's fused kernels for CPUs take longer (measured: a half more at 256 patches in float32, far more in bfloat16).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.training.learning.frozen_towers import TowerTexts

# There are this many learnt positions, as in CLIP's context. A tower with a shorter context never uses the last ones.
_MAX_TOKENS = 77


class TokenCrossAttention(nn.Module):
    """Some tokens read others: x + Attention(norm(x), y)."""

    def __init__(self, width: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.norm_read = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        read: torch.Tensor,
        *,
        is_word: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
        read_position: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (T, N, width), of queries x (T, N, width) that attend to `read` (T, M, width).

        `is_word` (T, M) bool says which keys exist. With `owners` (T,) int64, `read` is (U, M, width), and each row of
        x reads the row that it names: shared rows are prepared once. `position` (N, width) or (T, N, width) is added to
        the queries, `read_position` (M, width) to the keys, not to the values.
        """
        given = self.norm_read(read)
        if read_position is None:
            key_value: torch.Tensor = self.key_value(given)
        else:
            weight, bias = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
            parts = (F.linear(given + read_position, weight[0], bias[0]), F.linear(given, weight[1], bias[1]))
            key_value = torch.cat(parts, -1)
        key, value = (key_value if owners is None else key_value[owners]).chunk(2, dim=-1)
        own = self.norm(x)
        query = self.query(own if position is None else own + position)
        read_by = attend(query, key, value, num_heads=self._num_heads, is_word=is_word)
        dropped: torch.Tensor = self.drop(self.out(read_by))
        return x + dropped


class SelfAttention(nn.Module):
    """Tokens read each other."""

    def __init__(self, width: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, *, is_word: torch.Tensor | None = None) -> torch.Tensor:
        """Return (T, N, width) for x (T, N, width), of which `is_word` (T, N) bool says what there is."""
        query, key, value = self.query_key_value(self.norm(x)).chunk(3, dim=-1)
        mixed = attend(query, key, value, num_heads=self._num_heads, is_word=is_word)
        dropped: torch.Tensor = self.drop(self.out(mixed))
        return x + dropped


class Perceptron(nn.Module):
    """Each token by itself: x + MLP(norm(x))."""

    def __init__(self, width: int, ratio: float, *, dropout: float) -> None:
        super().__init__()
        hidden = round(ratio * width)
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (T, N, width)."""
        out: torch.Tensor = x + self.layers(x)
        return out


class ProductAttention(nn.Module):
    """Patches read words and are multiplied with them.

    Attention shows which words a patch resembles most, but not that it resembles none: its weights add up to 1. The
    products show it: each patch is multiplied with what it read, and with the sentence.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norm, self.norm_words = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.sentence = nn.Linear(width, width)

    def compared_with_words(self, patches: torch.Tensor, words: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Return what patches (T, N, width) have read, and the two products, (T, N, 3 · width).

        Of words (T, L, width) `is_word` (T, L) says which exist, at least one.
        """
        own, said = self.norm(patches), self.norm_words(words)
        key, value = self.key_value(said).chunk(2, dim=-1)
        read = attend(self.query(own), key, value, num_heads=self._num_heads, is_word=is_word)
        mean = (said * is_word[..., None]).sum(1, keepdim=True) / is_word.sum(1)[:, None, None]
        return torch.cat([read, own * read, own * self.sentence(mean)], -1)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, num_heads: int, is_word: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q·k / √d)·v over heads, (T, N, width), of queries (T, N, width), keys and values (T, M, width).

    `is_word` (T, M) bool says which keys exist, at least one; None for all.
    """
    query, key, value = (each.view(*each.shape[:2], num_heads, -1).transpose(1, 2) for each in (query, key, value))
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)
    if is_word is not None:
        scores = scores.masked_fill(~is_word[:, None, None, :], float("-inf"))
    mixed: torch.Tensor = scores.softmax(-1) @ value
    return mixed.transpose(1, 2).flatten(2)


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


# The constants of SplitMix64 are written as signed numbers, because torch has no unsigned arithmetic.
_STEP, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def word_codes(tokens: torch.Tensor, width: int) -> torch.Tensor:
    """Return codes (..., width) of +1 and -1, float32, of tokens (...) int64: bits of a hash of each token's number.

    Two tokens agree in half of the bits. Nothing is trained or stored, and every machine has the same.
    """
    counter = torch.arange(1, width + 1, device=tokens.device)
    # The product wraps at 64 bits, as SplitMix64 requires.
    state = (tokens[..., None] * 2**20 + counter) * _STEP
    for bits, factor in ((30, _FIRST), (27, _SECOND)):
        # The mask clears the sign bits that torch shifts in, so that the shift is that of an unsigned number.
        state = (state ^ (state >> bits & (1 << (64 - bits)) - 1)) * factor
    return (state >> 63).to(torch.float32) * 2 + 1
