"""The prefix tree: equal prefixes of all decoders, masks and crop kinds are one node, computed once.

All rows of a search have prefixes of one length, so that the tree is walked level by level; a level is a
*frontier*. Pure bookkeeping in numpy: no model, no device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_VOCABULARY_BOUND = 2**32


@dataclass(frozen=True, slots=True)
class Frontier:
    """The unique prefixes of one length, and the pairs (prefix, crop) whose hidden states somebody reads.

    Attributes:
        tokens: (U,) the last token of each prefix.
        parents: (U,) each prefix without its last token, as an index into the frontier before.
        row_prefix: (R,) the prefix of each row that asked.
        pair_prefix: (P,) prefixes of the pairs, which are ordered by crop, then prefix.
        pair_crop: (P,) their crops.
        pair_parent: (P,) the pair of the same crop and the parent prefix, in the frontier before.
        pair_of: (U, C) index of the pair, -1 where nobody reads it.
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


def extend(before: Frontier | None, parents: Ints, tokens: Ints, needs: Bools) -> Frontier:
    """Return the frontier one token further.

    Args:
        before: The last frontier; None at the root.
        parents: (R,) each row's prefix in `before`, zeros at the root.
        tokens: (R,) the token that each row appends.
        needs: (R, C) the crops under which each row reads the new prefix; a subset of what it read before.
    """
    keys, first, row_prefix = np.unique(parents * _VOCABULARY_BOUND + tokens, return_index=True, return_inverse=True)
    by_prefix = np.argsort(row_prefix, kind="stable")
    starts = np.searchsorted(row_prefix[by_prefix], np.arange(len(keys)))
    needed = np.logical_or.reduceat(needs[by_prefix], starts, axis=0)
    pair_crop, pair_prefix = np.nonzero(needed.T)
    pair_of = np.full(needed.shape, -1, dtype=np.int64)
    pair_of[pair_prefix, pair_crop] = np.arange(len(pair_crop))
    prefix_parents = parents[first]
    return Frontier(
        tokens=tokens[first],
        parents=prefix_parents,
        row_prefix=row_prefix.astype(np.int64),
        pair_prefix=pair_prefix,
        pair_crop=pair_crop,
        pair_parent=pair_prefix[:0] if before is None else before.pair_of[prefix_parents[pair_prefix], pair_crop],
        pair_of=pair_of,
    )


def crop_slots(pair_crop: Ints, num_crops: int) -> tuple[Ints, int]:
    """Return each pair's place (P,) in a table (C, G) with one line a crop, and G, its longest line.

    Args:
        pair_crop: (P,) crops in ascending order.
        num_crops: C.
    """
    counts = np.bincount(pair_crop, minlength=num_crops)
    starts = np.cumsum(counts) - counts
    rows_a_crop = int(counts.max())
    return pair_crop * rows_a_crop + np.arange(len(pair_crop)) - starts[pair_crop], rows_a_crop
