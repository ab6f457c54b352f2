"""open_clip's attention blocks, one position at a time, over cached keys and values, and the cache itself.

`nn.MultiheadAttention` cannot take past keys and values, so this module has its own attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

from pseudoris.workers.forward_passes import Block, Finish, finish_block

_FIRST_CAPACITY = 256


class NodeCache:
    """Keys and values of the nodes of a prefix tree, one row per node, for the layers of one tower.

    The cache is a stack. Nodes are numbered in the order of writing, and freed from the end when a branch of the tree
    is done. `CacheIndex` holds the node numbers of a prefix's positions, so that a fork copies numbers, not keys.
    Memory is kept from image to image.
    """

    def __init__(self, num_layers: int, num_heads: int, width: int) -> None:
        self._shape = (num_layers, num_heads, 2 * width // num_heads)
        # One tensor (heads, nodes, keys and values) per layer.
        self._store: list[torch.Tensor] = []
        self.size = 0

    @staticmethod
    def node_bytes(num_layers: int, width: int, dtype: torch.dtype) -> int:
        """Return the bytes of one node."""
        return 2 * num_layers * width * dtype.itemsize

    @property
    def capacity(self) -> int:
        """Number of nodes that fit into the allocated memory."""
        # The smallest layer decides: if memory runs out during `resize`, later layers keep their old size.
        return min((layer.shape[1] for layer in self._store), default=0)

    def resize(self, capacity: int, like: torch.Tensor) -> None:
        """Allocate at least `capacity` nodes, and never fewer than exist, with the dtype and device of `like`."""
        layers, heads, width = self._shape
        if not self.size:
            # Free the old memory first: both may not fit.
            self._store = []
        shape = (heads, max(capacity, self.size), width)
        if not self._store:
            self._store = [like.new_empty(shape) for _ in range(layers)]
            return
        for layer in range(layers):
            # Layer by layer, so that at most one layer exists twice.
            resized = like.new_empty(shape)
            resized[:, : self.size] = self._store[layer][:, : self.size]
            self._store[layer] = resized

    def reserve(self, count: int, like: torch.Tensor) -> int:
        """Reserve the next `count` nodes, doubling the memory if needed; return the number of the first."""
        if self.size + count > self.capacity:
            self.resize(max(_FIRST_CAPACITY, 2 * self.capacity, self.size + count), like)
        first = self.size
        self.size += count
        return first

    def write(self, layer: int, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values (P, D) of the nodes from number `first` on."""
        _, heads, width = self._shape
        here = self._layer(layer)[:, first : first + len(keys)]
        here[..., : width // 2] = keys.view(len(keys), heads, -1).transpose(0, 1)
        here[..., width // 2 :] = values.view(len(values), heads, -1).transpose(0, 1)

    def read(self, layer: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (heads, P, T, head width) at the nodes (P, T)."""
        rows = self._layer(layer).index_select(1, nodes.reshape(-1))
        keys, values = rows.view(rows.shape[0], *nodes.shape, rows.shape[2]).chunk(2, dim=3)
        return keys, values

    def _layer(self, layer: int) -> torch.Tensor:
        if not self._store:
            raise RuntimeError("the cache has no memory yet: call reserve before reading or writing")
        return self._store[layer]


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, is_hidden: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q · k / √d) · v of shape (..., Q, d); the softmax in float32 at least.

    Args:
        queries: (..., Q, d).
        keys: (..., T, d).
        values: (..., T, d).
        is_hidden: Bool, broadcast to (..., Q, T); such keys are ignored.
    """
    if queries.device.type == "cuda":
        # On CUDA this call keeps scores and softmax in float32 without storing them. On a CPU, for one query and a few
        # keys, it takes twice as long as the products below.
        is_seen = None if is_hidden is None else ~is_hidden
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if is_hidden is not None:
        scores = scores.masked_fill(is_hidden, -torch.inf)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    mixed: torch.Tensor = scores.softmax(dim=-1, dtype=dtype).to(values.dtype) @ values
    return mixed


@dataclass(frozen=True, slots=True)
class CropSlots:
    """Rows grouped by crop and padded to one length, so that a crop's image tokens are read once for all its rows.

    Attributes:
        index: (P,) int64, crop · rows_a_crop + number of the row within its crop.
        rows_a_crop: The largest number of rows of a crop.
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
        nodes: torch.Tensor,
        is_hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the block's output (P, D) at the newest position of each row; write the keys and values to its node.

        Args:
            x: (P, D), the block's input at the newest position.
            cache: Holds the older positions' keys and values of this layer.
            layer: The layer's number in the cache.
            first: Node of the first row's newest position; those of the other rows follow.
            nodes: (P, T) int64, nodes of each row's positions.
            is_hidden: (P, T) bool, true for padding.
        """
        queries, keys, values = self.queries_keys_values(self.ln_1(x)).chunk(3, dim=-1)
        cache.write(layer, first, keys, values)
        past_keys, past_values = cache.read(layer, nodes)
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
            slots: The slot of each row among its crop's rows.
        """
        keys, values = keys_values
        num_crops, num_heads, _, head_width = keys.shape
        padded = queries.new_zeros(num_crops * slots.rows_a_crop, queries.shape[1])
        padded[slots.index] = queries
        grouped = padded.view(num_crops, slots.rows_a_crop, num_heads, head_width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(grouped, keys, values).transpose(1, 2).reshape(padded.shape)
        return self.finish(x, mixed[slots.index])
