"""SAM's image encoder for a GPU: attention by one kernel, and half precision without autocast. For `sam_model.py`.

It must equal `ImageEncoderViT.forward` up to rounding. That writes a block's map of attention, of all heads, seven
times, and autocast copies each weight in each pass. Source: segment-anything 1.0, modeling/image_encoder.py.
"""

from __future__ import annotations

import copy

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn
from torch.nn import functional as F

# In half precision attention by CUTLASS takes channels in multiples of this. Source: torch 2, sdp_utils.cpp.
_CHANNEL_GROUP = 8


class PlacedAttention(nn.Module):
    """An `Attention` over grids of tokens by one kernel, which writes no map.

    SAM adds to a score what the query makes of its distance to the key, in rows and in columns. Here the query has
    these H + W values as further channels, and a key a one for its row and a one for its column.
    """

    def __init__(self, attention: Attention) -> None:
        """Share the weights, which must not change."""
        super().__init__()
        self.plain = attention
        height, width = ((len(each) + 1) // 2 for each in (attention.rel_pos_h, attention.rel_pos_w))
        with torch.no_grad(), attention.rel_pos_h.device:
            # (H, H, d) and (W, W, d). The kernel scales all channels, and SAM adds these unscaled.
            self.rows = get_rel_pos(height, height, attention.rel_pos_h) / attention.scale
            self.columns = get_rel_pos(width, width, attention.rel_pos_w) / attention.scale
            places = [torch.eye(height).repeat_interleave(width, 0), torch.eye(width).repeat(height, 1)]
            self.num_spare = -(self.rows.shape[2] + height + width) % _CHANNEL_GROUP
            self.places = F.pad(torch.cat(places, 1), (0, self.num_spare)).to(self.rows.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the attention of tokens (B, H, W, C) to those of their own grid."""
        batch, height, width, _ = x.shape
        parts = self.plain.qkv(x).view(batch, height * width, 3, self.plain.num_heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        on_grid = queries.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", on_grid, self.rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", on_grid, self.columns).flatten(2, 3)
        spare = queries.new_zeros(()).expand(*queries.shape[:3], self.num_spare)
        queries = torch.cat([queries, by_row, by_column, spare], 3)
        keys = torch.cat([keys, self.places.expand(*keys.shape[:2], -1, -1)], 3)
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=self.plain.scale)
        projected: torch.Tensor = self.plain.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))
        return projected


class FusedEncoder(nn.Module):
    """`ImageEncoderViT` by `PlacedAttention`; all but its neck computes in `dtype`."""

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype) -> None:
        """Share the weights, which must not change; with another `dtype`, keep copies in it."""
        super().__init__()
        # In half precision the squares in the neck's norms round coarsely, and in float16 they overflow.
        self.neck = encoder.neck
        is_shared = dtype == encoder.pos_embed.dtype
        known = {id(weight): weight for weight in encoder.parameters()} if is_shared else {}
        copied = copy.deepcopy(encoder, known).to(dtype)
        self.patch_embed, self.place, self.blocks = copied.patch_embed, copied.pos_embed, copied.blocks
        for block in self.blocks:
            block.attn = PlacedAttention(block.attn)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the encodings (B, C, h, w), in the neck's dtype, of normalised images (B, 3, H, W)."""
        x = self.patch_embed(planes.to(self.place.dtype)) + self.place
        for block in self.blocks:
            x = block(x)
        encoded: torch.Tensor = self.neck(x.permute(0, 3, 1, 2).to(self.neck[0].weight.dtype))
        return encoded
