"""CLIP's text tower without the padding after a text. In a causal tower the output at EOS never reads the padding.

A text is cut to its own length, rounded up in steps. The other texts of its batch do not matter: they must not change
the shapes of matrices, because rounding depends on the shape.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pseudoris.workers.transformer_blocks import Block, finish_block

# Tokens from one length to the next. Larger steps compute more padding; smaller ones leave more tiles partly empty.
LENGTH_STEP: Final = 4


class CausalBlock(Block):
    """A block of a causal tower, over whole sequences."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of `block`, which must not change."""
        super().__init__(block, finish=finish_block)
        self._queries_keys_values = self.linear(block.attn.in_proj_weight, block.attn.in_proj_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output (B, L, D) for its input (B, L, D)."""
        queries, keys, values = self._heads(x)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.finish(x, mixed.transpose(1, 2).reshape(x.shape))

    def at(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the output (B, D) at one position of each sequence, positions (B,) int64."""
        num_texts, length, width = x.shape
        queries, keys, values = self._heads(x)
        rows = torch.arange(num_texts, device=x.device)
        is_seen = torch.arange(length, device=x.device) <= positions[:, None]
        mixed = F.scaled_dot_product_attention(
            queries[rows, :, positions][:, :, None], keys, values, attn_mask=is_seen[:, None, None]
        )
        return self.finish(x[rows, positions], mixed.reshape(num_texts, width))

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values (B, H, L, d)."""
        together = self._queries_keys_values(self.ln_1(x)).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = together.permute(2, 0, 3, 1, 4)
        return queries, keys, values


class TextTower:
    """The text side of a CLIP, computed at the lengths that its texts need."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model` and share its weights."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead, or pools at the end, reads the padding, so its texts are not cut.
        self.is_cut = (
            isinstance(model, CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and all(isinstance(block, ResidualAttentionBlock) for block in model.transformer.resblocks)
        )
        self._blocks = [CausalBlock(block) for block in model.transformer.resblocks] if self.is_cut else []

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (T,) int64: for each text of (T, context) the number of positions to compute, EOS included."""
        if not self.is_cut:
            return torch.full((len(tokens),), self.context_length)
        # EOS has the highest token id; the tower finds it the same way.
        needed = tokens.argmax(dim=1) + 1
        return ((needed + LENGTH_STEP - 1) // LENGTH_STEP * LENGTH_STEP).clamp(max=self.context_length)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (B, D) of texts cut to one length, (B, L) int64; open_clip's `encode_text` up to rounding."""
        if not self.is_cut:
            features: torch.Tensor = self._model.encode_text(tokens)
            return features
        model, length = self._model, tokens.shape[1]
        dtype = model.transformer.get_cast_dtype()
        hidden = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
        for block in self._blocks[:-1]:
            hidden = block(hidden)
        # After the last block only the position of EOS (the highest token id) is read.
        pooled: torch.Tensor = model.ln_final(self._blocks[-1].at(hidden, tokens.argmax(dim=1)))
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight, projection.bias)
        return pooled if projection is None else pooled @ projection
