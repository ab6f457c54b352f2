"""The prefix tree: equal prefixes of all rules, masks and crop kinds are one node, computed once and cached.

All unfinished rows have prefixes of one length, so the tree is decoded level by level. `PrefixLevel` is a level, in
numpy, without a model; `NodeCache` holds the keys and values of its nodes on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_VOCABULARY_BOUND = 2**32
_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class PrefixLevel:
    """The unique prefixes of one length, and the pairs (prefix, crop) whose hidden states a row reads.

    Attributes:
        tokens: (U,) the last token of each prefix.
        parents: (U,) each prefix without its last token, as an index into the previous level.
        row_prefix: (R,) the prefix of each row.
        pair_prefix: (P,) prefixes of the pairs, which are ordered by crop, then prefix.
        pair_crop: (P,) their crops.
        pair_parent: (P,) the pair of the same crop and the parent prefix, in the previous level.
        pair_of: (U, C) index of the pair, -1 if no row reads it.
    """

    tokens: Ints
    parents: Ints
    row_prefix: Ints
    pair_prefix: Ints
    pair_crop: Ints
    pair_parent: Ints
    pair_of: Ints

    @property
    def num_pairs(self) -> int:
        """Number of pairs P."""
        return len(self.pair_prefix)

    @property
    def num_prefixes(self) -> int:
        """Number of unique prefixes U."""
        return len(self.tokens)


def extend(before: PrefixLevel | None, parents: Ints, tokens: Ints, needs: Bools) -> PrefixLevel:
    """Return the next level, one token further.

    Args:
        before: The previous level; None at the root.
        parents: (R,) each row's prefix in `before`, zeros at the root.
        tokens: (R,) the token that each row appends.
        needs: (R, C) the crops for which each row reads the new prefix; a subset of those it read before.
    """
    keys, first, row_prefix = np.unique(parents * _VOCABULARY_BOUND + tokens, return_index=True, return_inverse=True)
    by_prefix = np.argsort(row_prefix, kind="stable")
    starts = np.searchsorted(row_prefix[by_prefix], np.arange(len(keys)))
    needed = np.logical_or.reduceat(needs[by_prefix], starts, axis=0)
    pair_crop, pair_prefix = np.nonzero(needed.T)
    pair_of = np.full(needed.shape, -1, dtype=np.int64)
    pair_of[pair_prefix, pair_crop] = np.arange(len(pair_crop))
    prefix_parents = parents[first]
    return PrefixLevel(
        tokens=tokens[first],
        parents=prefix_parents,
        row_prefix=row_prefix.astype(np.int64),
        pair_prefix=pair_prefix,
        pair_crop=pair_crop,
        pair_parent=pair_prefix[:0] if before is None else before.pair_of[prefix_parents[pair_prefix], pair_crop],
        pair_of=pair_of,
    )


def crop_slots(pair_crop: Ints, num_crops: int) -> tuple[Ints, int]:
    """Return each pair's index (P,) in a flat table (C, G) with one row per crop, and G, the length of the longest row.

    Args:
        pair_crop: (P,) crops in ascending order.
        num_crops: C.
    """
    counts = np.bincount(pair_crop, minlength=num_crops)
    starts = np.cumsum(counts) - counts
    rows_a_crop = int(counts.max())
    return pair_crop * rows_a_crop + np.arange(len(pair_crop)) - starts[pair_crop], rows_a_crop


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
        here = self._store[layer][:, first : first + len(keys)]
        here[..., : width // 2] = keys.view(len(keys), heads, -1).transpose(0, 1)
        here[..., width // 2 :] = values.view(len(values), heads, -1).transpose(0, 1)

    def read(self, layer: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (heads, P, T, head width) at the nodes (P, T)."""
        rows = self._store[layer].index_select(1, nodes.reshape(-1))
        keys, values = rows.view(rows.shape[0], *nodes.shape, rows.shape[2]).chunk(2, dim=3)
        return keys, values
