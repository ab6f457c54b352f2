"""The text side of a CLIP over the prefix tree of its texts: a prefix that texts share is computed once.

A causal tower's output at a token never reads what follows, padding included, so it is a function of the prefix. A node
of the tree is a prefix. Texts in the order of their tokens are packed into tiles of one number of nodes, so texts that
share a prefix mostly share its node; what two tiles share is in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pseudoris.workers.device import to_device
from pseudoris.workers.forward_passes import Block, finish_block

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
    # Texts come in the order of their tokens. Nodes are numbered as they come: (token, depth, parent) each.
    nodes: list[tuple[int, int, int]] = []
    # The newest text, the nodes of its prefixes, and the number and the last node of each text of the tile.
    newest: Sequence[int] = ()
    path: list[int] = []
    ends: list[tuple[int, int]] = []
    for number in sorted(range(len(texts)), key=texts.__getitem__):
        text = texts[number]
        shared = next(
            (at for at, (a, b) in enumerate(zip(newest, text, strict=False)) if a != b), min(len(newest), len(text))
        )
        if len(nodes) + len(text) - shared > num_nodes:
            yield _tile(nodes, ends, num_nodes)
            nodes, path, ends, shared = [], [], [], 0
        del path[shared:]
        for depth in range(shared, len(text)):
            nodes.append((text[depth], depth, path[-1] if depth else 0))
            path.append(len(nodes) - 1)
        newest = text
        ends.append((number, path[-1]))
    if ends:
        yield _tile(nodes, ends, num_nodes)


def _tile(nodes: Sequence[tuple[int, int, int]], ends: Sequence[tuple[int, int]], num_nodes: int) -> TextTile:
    """Return a tile of nodes (token, depth, parent) and texts (number, last node), in the order of depth."""
    tokens, depths, parents = np.array([*nodes, *[(0, 0, 0)] * (num_nodes - len(nodes))], dtype=np.int64).T
    order = np.argsort(depths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    tokens, depths, parents = tokens[order], depths[order], rank[parents[order]]
    paths = np.zeros((len(order), int(depths[-1]) + 1), dtype=np.int64)
    for depth in range(paths.shape[1]):
        at_depth = np.flatnonzero(depths == depth)
        paths[at_depth, :depth] = paths[parents[at_depth], :depth]
        paths[at_depth, depth] = at_depth
    numbers, last = np.array(ends, dtype=np.int64).T
    return TextTile(tokens, depths, paths, numbers, rank[last], len(nodes))


# A prefix's length is rounded up to this, and by itself alone: the rounding of its attention depends on it.
_LENGTH_STEP: Final = 4
# Positions of prefixes whose keys and values are gathered at a time. Bounds memory for long texts.
_POSITIONS_A_PART: Final = {"cpu": 2**14, "cuda": 2**19}


# Neighbouring nodes whose prefixes have the same length P, rounded up: which; the nodes of their positions one after
# another, (n · P,) int64; and the positions up to the prefix's own, (n, 1, P) bool.
_NodesOfLength = tuple[slice, torch.Tensor, torch.Tensor]


class TreeBlock(Block):
    """A block of a causal tower, over the nodes of a tile."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of `block`, which must not change."""
        super().__init__(block, finish=finish_block)
        self._queries_keys_values = self.linear(block.attn.in_proj_weight, block.attn.in_proj_bias)

    def forward(self, x: torch.Tensor, lengths: Sequence[_NodesOfLength]) -> torch.Tensor:
        """Return the block's output (R, D) for its input (R, D)."""
        together = self._queries_keys_values(self.ln_1(x)).view(len(x), 3, self.num_heads, -1)
        queries, *rest = together.permute(1, 2, 0, 3)
        keys_values = torch.cat(rest, dim=2)
        mixed = torch.empty_like(queries)
        for nodes, paths, is_seen in lengths:
            num_nodes, _, length = is_seen.shape
            gathered = keys_values.index_select(1, paths).view(self.num_heads, num_nodes, length, -1)
            keys, values = gathered.chunk(2, dim=3)
            mixed[:, nodes] = F.scaled_dot_product_attention(queries[:, nodes, None], keys, values, attn_mask=is_seen)[
                :, :, 0
            ]
        return self.finish(x, mixed.transpose(0, 1).reshape(x.shape))


class TextTower:
    """The text side of a CLIP."""

    def __init__(self, model: CLIP | CustomTextCLIP) -> None:
        """Wrap `model`, on its device, and share its weights."""
        self._model = model
        self.context_length = int(model.context_length)
        # A tower that looks ahead, or pools at the end, reads the padding: its texts share nothing.
        self.is_tree = (
            isinstance(model, CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and all(isinstance(block, ResidualAttentionBlock) for block in model.transformer.resblocks)
        )
        self._blocks = [TreeBlock(block) for block in model.transformer.resblocks] if self.is_tree else []

    @torch.inference_mode()
    def encode_tile(self, tile: TextTile) -> torch.Tensor:
        """Return (T, D) of a tile's texts, normalised float32; open_clip's `encode_text` up to rounding."""
        model = self._model
        dtype = model.transformer.get_cast_dtype()
        device = model.positional_embedding.device
        tokens, depths, ends = (to_device(column, device) for column in (tile.tokens, tile.depths, tile.ends))
        hidden = model.token_embedding(tokens).to(dtype) + model.positional_embedding[depths].to(dtype)
        lengths = _by_length(tile, device)
        for block in self._blocks:
            hidden = block(hidden, lengths)
        # Of all nodes, because rounding depends on the number of rows.
        pooled: torch.Tensor = model.ln_final(hidden)
        projection: nn.Linear | torch.Tensor | None = model.text_projection
        if isinstance(projection, nn.Linear):
            pooled = F.linear(pooled, projection.weight, projection.bias)
        elif projection is not None:
            pooled = pooled @ projection
        return F.normalize(pooled.float(), dim=-1)[ends]


def tokens_of(contexts: torch.Tensor) -> list[list[int]]:
    """Return the tokens of each of (T, context) int64 up to EOS, which has the highest id, as open_clip finds it."""
    ends = contexts.argmax(dim=1).tolist()
    return [row[: end + 1] for row, end in zip(contexts.tolist(), ends, strict=True)]


def _by_length(tile: TextTile, device: torch.device) -> list[_NodesOfLength]:
    rounded = tile.depths // _LENGTH_STEP
    starts = np.flatnonzero(np.diff(rounded, prepend=-1))
    found = []
    for start, end in zip(starts, [*starts[1:], len(rounded)], strict=True):
        length = int(rounded[start] + 1) * _LENGTH_STEP
        paths = np.zeros((end - start, length), dtype=np.int64)
        known = tile.paths[start:end, :length]
        paths[:, : known.shape[1]] = known
        is_seen = np.arange(length) <= tile.depths[start:end, None]
        step = max(1, _POSITIONS_A_PART[device.type] // length)
        for first in range(0, end - start, step):
            part = slice(first, min(first + step, end - start))
            found.append(
                (
                    slice(start + part.start, start + part.stop),
                    to_device(paths[part].ravel(), device),
                    to_device(is_seen[part, None], device),
                )
            )
    return found
