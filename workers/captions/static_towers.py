"""CoCa's towers in fixed shapes: every row has caches of its own, so a step forks nothing and reads nothing.

Layout of a batch of G groups: a group has C crops, and R sampling rows with B beams a crop. Its N = R + C · B prefixes
go through the text tower and the decoder's first self-attention, which see no image. Its pairs, C × Q with Q = R + B,
are each sampling row under each crop, and each beam under its own crop alone. Positions ahead are masked, so the shapes
of a step are those of every other: on a GPU it is recorded once and replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F

from pseudoris.workers.captions.coca_blocks import CocaBlocks, CrossAttention, SelfAttention


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What a group of a batch has room for.

    Attributes:
        crops: C.
        targets: T, at most C: the first T crops are those that its sampling rows describe.
        rules: Sampling rows of a target.
        beams: B, of each crop.
        positions: Of a caption, SOT included.
    """

    crops: int
    targets: int
    rules: int
    beams: int
    positions: int

    @property
    def rows(self) -> int:
        """R, ordered by target, then rule."""
        return self.targets * self.rules

    @property
    def prefixes(self) -> int:
        """N."""
        return self.rows + self.crops * self.beams

    @property
    def pairs(self) -> int:
        """C × Q."""
        return self.crops * (self.rows + self.beams)


@dataclass(frozen=True, slots=True)
class StaticCaches:
    """Keys and values, keys first.

    Attributes:
        text: (layers, 2, G · N, heads, positions, head width).
        first: (1, 2, G · N, ...), of the decoder's first self-attention.
        pairs: (layers - 1, 2, G · C · Q, ...), of the others.
        image: (layers, 2, G · C, heads, T, head width), of T image tokens.
    """

    text: torch.Tensor
    first: torch.Tensor
    pairs: torch.Tensor
    image: torch.Tensor

    @classmethod
    def empty(cls, blocks: CocaBlocks, shape: GroupShape, num_groups: int, num_image_tokens: int) -> Self:
        """Allocate the caches of a batch."""
        prefixes, length = num_groups * shape.prefixes, shape.positions
        layers, heads, width = (
            len(blocks.layers),
            blocks.layers[0].num_heads,
            blocks.width // blocks.layers[0].num_heads,
        )
        text_heads = blocks.text.heads
        of_text = (len(blocks.text_layers), 2, prefixes, text_heads, length, blocks.text.width // text_heads)
        new = blocks.like.new_zeros
        return cls(
            new(of_text),
            new(1, 2, prefixes, heads, length, width),
            new(layers - 1, 2, num_groups * shape.pairs, heads, length, width),
            new(layers, 2, num_groups * shape.crops, heads, num_image_tokens, width),
        )

    def clear(self) -> None:
        """Forget earlier prefixes: a position ahead has weight 0, and 0 times a value that is not finite is NaN."""
        for each in (self.text, self.first, self.pairs):
            each.zero_()


def group_bytes(blocks: CocaBlocks, shape: GroupShape, num_image_tokens: int) -> int:
    """Return the bytes of the caches of one group."""
    decoder = 2 * blocks.width * blocks.like.element_size()
    prefix = len(blocks.text_layers) * 2 * int(blocks.text.width) * blocks.like.element_size() + decoder
    pair = (len(blocks.layers) - 1) * decoder
    image = len(blocks.layers) * decoder * num_image_tokens
    return shape.positions * (shape.prefixes * prefix + shape.pairs * pair) + shape.crops * image


class StaticTowers:
    """The towers over the caches of one batch of G groups."""

    def __init__(self, blocks: CocaBlocks, shape: GroupShape, num_groups: int, num_image_tokens: int) -> None:
        """Allocate the caches."""
        self._blocks, self._shape, self._num_groups = blocks, shape, num_groups
        self._caches = StaticCaches.empty(blocks, shape, num_groups, num_image_tokens)
        self._numbers = torch.arange(shape.positions, device=blocks.like.device)

    def attend_to(self, image_tokens: torch.Tensor) -> None:
        """Drop all prefixes, and attend to the crops of image tokens (G · C, T, D) from now on."""
        self._caches.clear()
        for block, cache in zip(self._blocks.cross, self._caches.image, strict=True):
            keys, values = block.keys_values(image_tokens)
            cache[0].copy_(keys)
            cache[1].copy_(values)

    def step(self, tokens: torch.Tensor, position: torch.Tensor, is_padding: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states (G, C, Q, D) of the pairs at `position`, ready for the vocabulary.

        Args:
            tokens: (G, N) int64, the newest token of each prefix.
            position: (1,) int64, theirs.
            is_padding: (G, N, positions) bool, positions that the text tower masks as padding.
        """
        blocks, shape, caches = self._blocks, self._shape, self._caches
        is_past = self._numbers <= position
        is_read = (is_past & ~is_padding).flatten(0, 1)[:, None, None]
        is_past = is_past[None, None, None]
        x: torch.Tensor = blocks.text.token_embedding(tokens.flatten())
        x = x + blocks.text.positional_embedding.index_select(0, position)
        for block, cache in zip(blocks.text_layers, caches.text, strict=True):
            x = _attended(block, x, cache, position, is_read)
        # With a CLS token (every CoCa has one), the tower returns tokens before its last norm.
        x = _attended(blocks.layers[0], x, caches.first[0], position, is_past)
        queries = blocks.cross[0].queries(blocks.cross[0].ln_1(x))
        x, queries = self._under_crops(x), self._under_crops(queries)
        x = self._crossed(blocks.cross[0], x, queries, caches.image[0])
        for number, (block, cross) in enumerate(zip(blocks.layers[1:], blocks.cross[1:], strict=True)):
            x = _attended(block, x, caches.pairs[number], position, is_past)
            x = self._crossed(cross, x, cross.queries(cross.ln_1(x)), caches.image[number + 1])
        states: torch.Tensor = blocks.ln_final(x)
        return states.view(self._num_groups, shape.crops, shape.rows + shape.beams, -1)

    def reorder(self, parents: torch.Tensor) -> None:
        """Give each beam (G, C, B) the prefixes of its parent, the number of a beam of the same crop."""
        shape, groups = self._shape, self._num_groups
        for cache in (self._caches.text, self._caches.first):
            rows = cache.view(*cache.shape[:2], groups, shape.prefixes, *cache.shape[3:])[:, :, :, shape.rows :]
            _reorder(split_axis(rows, 3, shape.crops, shape.beams), parents)
        pairs = self._caches.pairs
        _reorder(
            pairs.view(*pairs.shape[:2], groups, shape.crops, -1, *pairs.shape[3:])[..., shape.rows :, :, :, :], parents
        )

    def _under_crops(self, x: torch.Tensor) -> torch.Tensor:
        """Return the states (G · C · Q, D) of pairs from those of prefixes (G · N, D)."""
        shape, width = self._shape, x.shape[1]
        of_group = x.view(self._num_groups, shape.prefixes, width)
        rows = of_group[:, None, : shape.rows].expand(-1, shape.crops, -1, -1)
        beams = split_axis(of_group[:, shape.rows :], 1, shape.crops, shape.beams)
        return torch.cat((rows, beams), dim=2).view(-1, width)

    def _crossed(
        self, block: CrossAttention, x: torch.Tensor, queries: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        crops = self._num_groups * self._shape.crops
        queries = queries.view(crops, -1, block.num_heads, image.shape[-1]).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, image[0], image[1])
        return block.finish(block, x, mixed.transpose(1, 2).reshape(x.shape))


def _attended(
    block: SelfAttention, x: torch.Tensor, cache: torch.Tensor, position: torch.Tensor, is_seen: torch.Tensor
) -> torch.Tensor:
    """Return the block's output (P, D) at `position`; write its keys and values there."""
    all_three = block.queries_keys_values(block.ln_1(x)).view(len(x), 3, block.num_heads, -1)
    cache.index_copy_(3, position, all_three[:, 1:].transpose(0, 1).unsqueeze(3))
    mixed = F.scaled_dot_product_attention(all_three[:, 0].unsqueeze(2), cache[0], cache[1], attn_mask=is_seen)
    return block.finish(block, x, mixed.reshape(len(x), -1))


def split_axis(tensor: torch.Tensor, axis: int, *sizes: int) -> torch.Tensor:
    """Return a view with several axes in place of one."""
    view: torch.Tensor = tensor.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return view


def _reorder(beams: torch.Tensor, parents: torch.Tensor) -> None:
    """Take from the beams (layers, 2, G, C, B, heads, positions, width) the parents (G, C, B), in place."""
    index = parents[None, None, ..., None, None, None].expand(beams.shape)
    beams.copy_(beams.gather(4, index))
