"""CLIP's text tower without the padding behind a text: a causal tower's output at EOS never reads it.

How far a text is cut follows from its own length, in steps: what it is computed with must not decide the shapes of
its matrices, which decide how they round.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from workers.blocks import Block, finish_block

# Tokens from one length to the next. Longer computes more padding, shorter fills more tiles only in part.
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

    def at(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the output (B, D) at one place of each sequence, places (B,) int64."""
        num_texts, length, width = x.shape
        queries, keys, values = self._heads(x)
        rows = torch.arange(num_texts, device=x.device)
        is_seen = torch.arange(length, device=x.device) <= places[:, None]
        mixed = F.scaled_dot_product_attention(
            queries[rows, :, places][:, :, None], keys, values, attn_mask=is_seen[:, None, None]
        )
        return self.finish(x[rows, places], mixed.reshape(num_texts, width))

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values (B, H, L, d)."""
        together = self._queries_keys_values(self.ln_1(x)).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = together.permute(2, 0, 3, 1, 4)
        return queries, keys, values


class TextTower:
    """The text side of a CLIP, at the lengths that its texts need."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model`, whose weights are shared."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead, or pools at the end, reads the padding: it gets all of it.
        self.is_cut = (
            isinstance(model, CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and all(isinstance(block, ResidualAttentionBlock) for block in model.transformer.resblocks)
        )
        self._blocks = [CausalBlock(block) for block in model.transformer.resblocks] if self.is_cut else []

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (T,) int64: of each text (T, context) the positions to compute, EOS among them."""
        if not self.is_cut:
            return torch.full((len(tokens),), self.context_length)
        # EOS is the highest token id, which is how the tower finds it itself.
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
        # Behind the last block nobody reads any place but that of EOS, the highest token.
        pooled: torch.Tensor = model.ln_final(self._blocks[-1].at(hidden, tokens.argmax(dim=1)))
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            return F.linear(pooled, projection.weight, projection.bias)
        return pooled if projection is None else pooled @ projection
