"""One position through open_clip's attention blocks, with keys and values kept instead of computed again.

`nn.MultiheadAttention` cannot be given a past, so attention is written anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

from workers.blocks import Block, Finish, finish_block
from workers.captions.attention import NodeCache, attend


@dataclass(frozen=True, slots=True)
class CropSlots:
    """Rows grouped by crop and padded to one length, so that a crop's image tokens are read once for all its rows.

    Attributes:
        index: (P,) int64, crop · rows_a_crop + place of the row among its crop's.
        rows_a_crop: The most rows that a crop has.
    """

    index: torch.Tensor
    rows_a_crop: int


class SelfAttention(Block):
    """A causal self-attention block, one position at a time."""

    def __init__(self, block: ResidualAttentionBlock, *, finish: Finish = finish_block) -> None:
        """As `Block`."""
        super().__init__(block, finish=finish)
        self.queries_keys_values = self.linear(block.attn.in_proj_weight, block.attn.in_proj_bias)

    def step(
        self,
        x: torch.Tensor,
        cache: NodeCache,
        *,
        layer: int,
        first: int,
        pages: torch.Tensor,
        is_hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the block's output (P, D) at the newest position of each row, whose node it writes.

        Args:
            x: (P, D), the block's input at the newest position.
            cache: Holds the older positions' keys and values of this layer.
            layer: The layer's place in the cache.
            first: Node of the first row's newest position; those of the other rows follow it.
            pages: (P, T) int64, nodes of each row's positions.
            is_hidden: (P, T) bool, positions that count as padding.
        """
        queries, keys, values = self.queries_keys_values(self.ln_1(x)).chunk(3, dim=-1)
        cache.write(layer, first, keys, values)
        past_keys, past_values = cache.read(layer, pages)
        queries = queries.reshape(len(x), self.num_heads, 1, -1).transpose(0, 1)
        hidden = None if is_hidden is None else is_hidden[None, :, None, :]
        mixed = attend(queries, past_keys, past_values, hidden)
        return self.finish(x, mixed[:, :, 0].transpose(0, 1).reshape(len(x), -1))


class CrossAttention(Block):
    """A block that attends to image tokens, the same for all rows of a crop."""

    def __init__(self, block: ResidualAttentionBlock, *, finish: Finish = finish_block) -> None:
        """As `Block`."""
        super().__init__(block, finish=finish)
        weight, bias, width = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.embed_dim
        self.ln_1_kv = block.ln_1_kv
        self._queries = self.linear(weight[:width], None if bias is None else bias[:width])
        self._keys_values = self.linear(weight[width:], None if bias is None else bias[width:])

    def keys_values(self, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (C, heads, T, head width) of image tokens (C, T, D)."""
        both = self._keys_values(self.ln_1_kv(image_tokens))
        keys, values = both.view(*both.shape[:2], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        return keys, values

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """Return the queries (P, D) of the block's input (P, D)."""
        queries: torch.Tensor = self._queries(self.ln_1(x))
        return queries

    def step(
        self,
        x: torch.Tensor,
        queries: torch.Tensor,
        *,
        keys_values: tuple[torch.Tensor, torch.Tensor],
        slots: CropSlots,
    ) -> torch.Tensor:
        """Return the block's output (P, D), each row attending to the image tokens of its crop.

        Args:
            x: (P, D), its input.
            queries: (P, D), from `queries`.
            keys_values: Of all C crops, from `keys_values`.
            slots: Where each row stands among its crop's rows.
        """
        keys, values = keys_values
        num_crops, num_heads, _, head_width = keys.shape
        padded = queries.new_zeros(num_crops * slots.rows_a_crop, queries.shape[1])
        padded[slots.index] = queries
        grouped = padded.view(num_crops, slots.rows_a_crop, num_heads, head_width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(grouped, keys, values).transpose(1, 2).reshape(padded.shape)
        return self.finish(x, mixed[slots.index])
