"""The prefix tree of texts, cut into tiles of one number of nodes. Bookkeeping in numpy, without a model.

A node is a prefix. Texts in the order of their tokens are packed into tiles, so texts that share a prefix mostly share
its node; what two tiles share is in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextTile:
    """The prefixes of some texts, R nodes in the order of their depth.

    Attributes:
        tokens: (R,) the last token of each prefix.
        depths: (R,) its position in the text, ascending. Nodes to spare are prefixes of one token.
        paths: (R, L) the nodes of each prefix's positions, its own last; 0 after it.
        texts: (T,) the numbers of the texts.
        ends: (T,) the node of each whole text.
        num_used: Nodes without those to spare.
    """

    tokens: Ints
    depths: Ints
    paths: Ints
    texts: Ints
    ends: Ints
    num_used: int


def cut_into_tiles(texts: Sequence[list[int]], num_nodes: int) -> Iterator[TextTile]:
    """Yield the tiles of the texts, each text once.

    Args:
        texts: The tokens of each text, at least one and at most `num_nodes`.
        num_nodes: R.
    """
    tile = _OpenTile(num_nodes)
    for number in sorted(range(len(texts)), key=texts.__getitem__):
        if not tile.has_room_for(texts[number]):
            yield tile.closed()
            tile = _OpenTile(num_nodes)
        tile.add(number, texts[number])
    if tile.texts:
        yield tile.closed()


class _OpenTile:
    """A tile that texts are added to in the order of their tokens; nodes are numbered as they come."""

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes
        self._tokens: list[int] = []
        self._depths: list[int] = []
        self._parents: list[int] = []
        self._newest: Sequence[int] = ()
        # The nodes of the newest text's prefixes.
        self._path: list[int] = []
        self._ends: list[int] = []
        self.texts: list[int] = []

    def has_room_for(self, text: Sequence[int]) -> bool:
        """Return whether the prefixes that the text does not share with the newest one fit in."""
        return len(self._tokens) + len(text) - self._num_shared(text) <= self._num_nodes

    def add(self, number: int, text: Sequence[int]) -> None:
        """Add a text, which is not below the newest one."""
        del self._path[self._num_shared(text) :]
        for depth in range(len(self._path), len(text)):
            self._parents.append(self._path[-1] if depth else 0)
            self._path.append(len(self._tokens))
            self._tokens.append(text[depth])
            self._depths.append(depth)
        self._newest = text
        self._ends.append(self._path[-1])
        self.texts.append(number)

    def closed(self) -> TextTile:
        """Return the tile, its nodes in the order of their depth."""
        num_spare = self._num_nodes - len(self._tokens)
        tokens, depths, parents = (
            np.array([*column, *[0] * num_spare], dtype=np.int64)
            for column in (self._tokens, self._depths, self._parents)
        )
        order = np.argsort(depths, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        tokens, depths, parents = tokens[order], depths[order], rank[parents[order]]
        paths = np.zeros((len(order), int(depths[-1]) + 1), dtype=np.int64)
        for depth in range(paths.shape[1]):
            nodes = np.flatnonzero(depths == depth)
            paths[nodes, :depth] = paths[parents[nodes], :depth]
            paths[nodes, depth] = nodes
        return TextTile(tokens, depths, paths, np.array(self.texts), rank[self._ends], len(self._tokens))

    def _num_shared(self, text: Sequence[int]) -> int:
        pairs = enumerate(zip(self._newest, text, strict=False))
        return next((at for at, (one, other) in pairs if one != other), min(len(self._newest), len(text)))
