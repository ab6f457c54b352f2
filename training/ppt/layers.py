"""The classical cross-attention layer that point generator and bridge are made of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class CrossAttention(nn.Module):
    """CrossAttn of equation 1: attention, then a feed-forward layer, each behind a norm and beside a residual.

    Source: Vaswani et al. 2017, with the norms in front, which trains without a long warm-up.
    """

    def __init__(self, width: int, num_heads: int, feed_forward_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_norm, self.context_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        hidden = round(feed_forward_ratio * width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(
        self,
        queries: torch.Tensor,
        context: torch.Tensor,
        *,
        query_position: torch.Tensor | None = None,
        context_position: torch.Tensor | None = None,
        is_token: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the updated queries (B, Q, d).

        Args:
            queries: (B, Q, d).
            context: (B, L, d).
            query_position: (Q, d), added where queries are compared.
            context_position: (L, d), added where the context is compared, and not to what is read from it.
            is_token: (B, L) bool, True where the context has a token.
        """
        q = self.query_norm(queries)
        k = v = self.context_norm(context)
        weight, bias = self.key_value.weight.chunk(2), self.key_value.bias.chunk(2)
        q = self._heads(self.query(q if query_position is None else q + query_position))
        k = self._heads(F.linear(k if context_position is None else k + context_position, weight[0], bias[0]))
        v = self._heads(F.linear(v, weight[1], bias[1]))
        mask = None if is_token is None else is_token[:, None, None, :]
        read = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        queries = queries + self.output(read.transpose(1, 2).flatten(2))
        fed: torch.Tensor = queries + self.feed_forward(queries)
        return fed

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L, d) as (B, heads, L, d / heads)."""
        return tokens.view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


def grid_position(height: int, width: int, channels: int, *, device: torch.device | None = None) -> torch.Tensor:
    """Return sines and cosines of the cells' centres, (H·W, channels) float32, row by row; channels in fours.

    Source: Carion et al. 2020 (DETR), with coordinates in [0, 1] so that grids of any size share one frame.
    """
    quarter = channels // 4
    frequency = math.pi * 2.0 ** torch.linspace(0, 6, quarter, device=device)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    on_y, on_x = y[:, None] * frequency, x[:, None] * frequency
    rows = torch.cat([on_y.sin(), on_y.cos()], -1)[:, None].expand(height, width, -1)
    columns = torch.cat([on_x.sin(), on_x.cos()], -1)[None].expand(height, width, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
