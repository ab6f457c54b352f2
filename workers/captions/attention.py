"""Attention of one new position over kept keys and values, and where these are kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_FIRST_CAPACITY = 256


class NodeCache:
    """Keys and values of the nodes of a prefix tree, one row a node, for the layers of one tower.

    Nodes are numbered as they are written and freed from the end, as a stack: a branch of the tree that is
    done gives its nodes back. A prefix finds its keys through *pages*, the node numbers of its positions, so
    that a fork copies numbers and never keys. Storage is kept from image to image.
    """

    def __init__(self, num_layers: int, num_heads: int, width: int) -> None:
        self._shape = (num_layers, num_heads, 2 * width // num_heads)
        # A tensor (heads, nodes, keys and values) a layer.
        self._store: list[torch.Tensor] = []
        self.size = 0

    @staticmethod
    def node_bytes(num_layers: int, width: int, dtype: torch.dtype) -> int:
        """Return what one node takes."""
        return 2 * num_layers * width * dtype.itemsize

    @property
    def capacity(self) -> int:
        """Number of nodes that fit without new memory."""
        # Of the smallest: where memory ran out while they grew, later layers are as they were.
        return min((layer.shape[1] for layer in self._store), default=0)

    def resize(self, capacity: int, like: torch.Tensor) -> None:
        """Take memory for `capacity` nodes of `like`'s dtype and device, no fewer than there are."""
        layers, heads, width = self._shape
        if not self.size:
            # Before the new memory is taken: both at once may be more than there is.
            self._store = []
        shape = (heads, max(capacity, self.size), width)
        if not self._store:
            self._store = [like.new_empty(shape) for _ in range(layers)]
            return
        for layer in range(layers):
            # A layer at a time, so that no more than one of them exists twice.
            resized = like.new_empty(shape)
            resized[:, : self.size] = self._store[layer][:, : self.size]
            self._store[layer] = resized

    def reserve(self, count: int, like: torch.Tensor) -> int:
        """Take the next `count` nodes, with twice the memory where it does not suffice; return the first's number."""
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

    def read(self, layer: int, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (heads, P, T, head width) at the nodes `pages` (P, T)."""
        rows = self._layer(layer).index_select(1, pages.reshape(-1))
        keys, values = rows.view(rows.shape[0], *pages.shape, rows.shape[2]).chunk(2, dim=3)
        return keys, values

    def _layer(self, layer: int) -> torch.Tensor:
        if not self._store:
            raise RuntimeError("a cache without nodes is neither read nor written: reserve comes first")
        return self._store[layer]


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
    if queries.device.type == "cuda":
        # Its kernels keep scores and softmax in float32 and never write them out; on a CPU, for one query over a few
        # keys, they take twice as long as the products below.
        is_seen = None if is_hidden is None else ~is_hidden
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if is_hidden is not None:
        scores = scores.masked_fill(is_hidden, -torch.inf)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    mixed: torch.Tensor = scores.softmax(dim=-1, dtype=dtype).to(values.dtype) @ values
    return mixed
