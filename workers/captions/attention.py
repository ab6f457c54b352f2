"""One position through open_clip's attention blocks, with keys and values kept instead of computed again.

The functions read the weights of open_clip's own blocks and call their own norms, layer scales and MLPs;
only attention is written here, because `nn.MultiheadAttention` cannot be given a past.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class CropSlots:
    """Rows grouped by crop and padded to one length, so that a crop's image tokens are read once for all its rows.

    Attributes:
        index: (P,) int64, crop · rows_a_crop + place of the row among its crop's.
        rows_a_crop: The most rows that a crop has.
    """

    index: torch.Tensor
    rows_a_crop: int


class NodeCache:
    """Keys and values of the nodes of a prefix tree, one row a node, for the layers of one tower.

    Nodes are numbered as they are written and freed from the end, as a stack: a branch of the tree that is
    done gives its nodes back. A prefix finds its keys through *pages*, the node numbers of its positions, so
    that a fork copies numbers and never keys. Storage is kept from image to image.
    """

    def __init__(self, num_layers: int, num_heads: int, width: int) -> None:
        self._shape = (num_layers, num_heads, 2 * width // num_heads)
        self._store: torch.Tensor | None = None
        self.size = 0

    @staticmethod
    def node_bytes(num_layers: int, width: int, dtype: torch.dtype) -> int:
        """Return what one node takes."""
        return 2 * num_layers * width * dtype.itemsize

    @property
    def capacity(self) -> int:
        """Number of nodes that fit without new memory."""
        return 0 if self._store is None else self._store.shape[2]

    def resize(self, capacity: int, like: torch.Tensor) -> None:
        """Take memory for `capacity` nodes of `like`'s dtype and device, no fewer than there are."""
        layers, heads, width = self._shape
        if not self.size:
            # Before the new memory is taken: both at once may be more than there is.
            self._store = None
        resized = like.new_empty(layers, heads, max(capacity, self.size), width)
        if self._store is not None:
            resized[:, :, : self.size] = self._store[:, :, : self.size]
        self._store = resized

    def reserve(self, count: int, like: torch.Tensor) -> int:
        """Take the next `count` nodes, with twice the memory where it does not suffice; return the first's number."""
        if self.size + count > self.capacity:
            self.resize(max(_FIRST_CAPACITY, 2 * self.capacity, self.size + count), like)
        first = self.size
        self.size += count
        return first

    def write(self, layer: int, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values (P, D) of the nodes from number `first` on."""
        store, (_, heads, width) = self._store, self._shape
        if store is None:
            raise RuntimeError("write to a cache without nodes: reserve comes first")
        here = store[layer, :, first : first + len(keys)]
        here[..., : width // 2] = keys.view(len(keys), heads, -1).transpose(0, 1)
        here[..., width // 2 :] = values.view(len(values), heads, -1).transpose(0, 1)

    def read(self, layer: int, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (heads, P, T, head width) at the nodes `pages` (P, T)."""
        store = self._store
        if store is None:
            raise RuntimeError("read from a cache without nodes: reserve comes first")
        rows = store[layer].index_select(1, pages.reshape(-1))
        keys, values = rows.view(rows.shape[0], *pages.shape, rows.shape[2]).chunk(2, dim=3)
        return keys, values


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, is_hidden: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q · k / √d) · v of shape (..., Q, d); the softmax in float32 at least.

    Args:
        queries: (..., Q, d).
        keys: (..., T, d).
        values: (..., T, d).
        is_hidden: Bool, broadcast to (..., Q, T); such keys are not seen.
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if is_hidden is not None:
        scores = scores.masked_fill(is_hidden, -torch.inf)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    mixed: torch.Tensor = scores.softmax(dim=-1, dtype=dtype).to(values.dtype) @ values
    return mixed


def self_attention_step(
    block: ResidualAttentionBlock,
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
        block: One of open_clip's causal self-attention blocks.
        x: (P, D), the block's input at the newest position.
        cache: Holds the older positions' keys and values of this layer.
        layer: The layer's place in the cache.
        first: Node of the first row's newest position; those of the other rows follow it.
        pages: (P, T) int64, nodes of each row's positions.
        is_hidden: (P, T) bool, positions that count as padding.
    """
    attention = block.attn
    queries, keys, values = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    cache.write(layer, first, keys, values)
    past_keys, past_values = cache.read(layer, pages)
    queries = queries.reshape(len(x), attention.num_heads, 1, -1).transpose(0, 1)
    hidden = None if is_hidden is None else is_hidden[None, :, None, :]
    mixed = attend(queries, past_keys, past_values, hidden)
    return _finish(block, x, mixed[:, :, 0].transpose(0, 1).reshape(len(x), -1))


def cross_keys_values(block: ResidualAttentionBlock, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values (C, heads, T, head width) of image tokens (C, T, D) for a cross-attention block."""
    attention = block.attn
    width = attention.embed_dim
    both = F.linear(block.ln_1_kv(image_tokens), attention.in_proj_weight[width:], _bias(attention, slice(width, None)))
    keys, values = both.view(*both.shape[:2], 2, attention.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    return keys, values


def cross_queries(block: ResidualAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """Return the queries (P, D) of a cross-attention block for its input (P, D)."""
    attention = block.attn
    width = attention.embed_dim
    return F.linear(block.ln_1(x), attention.in_proj_weight[:width], _bias(attention, slice(width)))


def cross_attention_step(
    block: ResidualAttentionBlock,
    x: torch.Tensor,
    queries: torch.Tensor,
    *,
    keys_values: tuple[torch.Tensor, torch.Tensor],
    slots: CropSlots,
) -> torch.Tensor:
    """Return the block's output (P, D), each row attending to the image tokens of its crop.

    Args:
        block: One of open_clip's cross-attention blocks.
        x: (P, D), its input.
        queries: (P, D), from `cross_queries`.
        keys_values: Of all C crops, from `cross_keys_values`.
        slots: Where each row stands among its crop's rows.
    """
    keys, values = keys_values
    num_crops, num_heads, _, head_width = keys.shape
    padded = queries.new_zeros(num_crops * slots.rows_a_crop, queries.shape[1])
    padded[slots.index] = queries
    grouped = padded.view(num_crops, slots.rows_a_crop, num_heads, head_width).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(grouped, keys, values).transpose(1, 2).reshape(padded.shape)
    return _finish(block, x, mixed[slots.index])


def _finish(block: ResidualAttentionBlock, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """The rest of a block after its heads: output projection, residuals, MLP."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    result: torch.Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return result


def _bias(attention: nn.MultiheadAttention, part: slice) -> torch.Tensor | None:
    return None if attention.in_proj_bias is None else attention.in_proj_bias[part]
