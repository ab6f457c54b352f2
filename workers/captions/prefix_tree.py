"""The prefix tree: equal prefixes of all rules, masks and crop kinds are one node, computed once.

All unfinished rows have prefixes of one length, so the tree is decoded level by level. `PrefixLevel` is a level,
`ActiveRows` are the sampling rows and beam searches that need the next level. Pure bookkeeping in numpy, without model
or device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pseudoris.workers.captions.beam_search import BeamSearch

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_VOCABULARY_BOUND = 2**32


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


@dataclass(frozen=True, slots=True)
class ActiveBeams:
    """The beam search of one crop, with the prefix of each beam's parent in the previous level."""

    crop: int
    search: BeamSearch
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """The sampling rows and beam searches that are unfinished at one prefix length.

    Attributes:
        rows: (r,) numbers of the sampling rows.
        targets: (r,) their crops.
        parents: (r,) their prefixes in the previous level.
        tokens: (r,) the tokens that they append.
        beams: The beam searches.
    """

    rows: Ints
    targets: Ints
    parents: Ints
    tokens: Ints
    beams: tuple[ActiveBeams, ...]

    @property
    def num_searches(self) -> int:
        """Number of sampling rows and beam searches; 0 once all are finished."""
        return len(self.rows) + len(self.beams)

    def requests(self, sot: int) -> tuple[Ints, Ints, Ints]:
        """Return parents, tokens and crops of all rows: sampling rows first, then every beam of every search."""
        extended = [
            (parent, beam.tokens[-1] if beam.tokens else sot, beams.crop)
            for beams in self.beams
            for parent, beam in zip(beams.parents, beams.search.beams, strict=True)
        ]
        columns = np.array(extended, dtype=np.int64).reshape(-1, 3).T
        return (
            np.concatenate((self.parents, columns[0])),
            np.concatenate((self.tokens, columns[1])),
            np.concatenate((self.targets, columns[2])),
        )

    def halves(self) -> tuple[ActiveRows, ActiveRows]:
        """Return two halves; rows of one parent stay together where possible, so that the halves share few nodes."""
        order = np.argsort(self.parents, kind="stable")
        middle, beams = (len(order) + 1) // 2, (len(self.beams) + 1) // 2
        # The odd row and the odd search go to different halves, so that two searches always give two parts.
        if len(order) % 2 and len(self.beams) % 2:
            beams -= 1
        return self._part(order[:middle], self.beams[:beams]), self._part(order[middle:], self.beams[beams:])

    def continuing(self, keep: Bools, parents: Ints, tokens: Ints, beams: tuple[ActiveBeams, ...]) -> ActiveRows:
        """Return the next level's rows: the rows in `keep` with their new parents and tokens, and the beams."""
        return ActiveRows(self.rows[keep], self.targets[keep], parents[keep], tokens[keep], beams)

    def _part(self, index: Ints, beams: tuple[ActiveBeams, ...]) -> ActiveRows:
        return ActiveRows(self.rows[index], self.targets[index], self.parents[index], self.tokens[index], beams)
