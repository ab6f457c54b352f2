"""CoCa's towers in fixed shapes, with caches that no step copies. For `static_engine` and `static_decoder`.

Layout of a batch of G groups: a group has C crops, R sampling rows, and B beams per crop. Its N = R + C · B prefixes go
through the text tower and the decoder's first self-attention, which see no image. Its pairs, C × Q with Q = R + B, are
each sampling row under each crop, and each beam under its own crop alone. All steps must have equal shapes and
addresses, so positions ahead are masked: on a GPU one step is recorded, then replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from pseudoris.workers.captions.cached_towers import CocaBlocks, CrossAttention
from pseudoris.workers.captions.recorded_step import RecordedStep as RecordedStep
from pseudoris.workers.captions.row_kernels import add_norm, attend_newest
from pseudoris.workers.forward_passes import Block, SelfAttentionBlock


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What a group of a batch has room for."""

    crops: int  # C
    targets: int  # T, at most C: the sampling rows describe the first T crops
    rules: int  # sampling rows of a target
    beams: int  # B, of each crop
    positions: int  # of a caption, SOT included

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


class CacheMemory:
    """Keys and values of one batch at a time: batches of other shapes take the same memory, at addresses that stay.

    Attributes:
        recordings: Memory of what a GPU records of steps over it; None on a CPU.
    """

    def __init__(self, like: torch.Tensor, num_bytes: int) -> None:
        """Allocate memory in the dtype and on the device of `like`."""
        self._all, self.num_bytes = like.new_empty(num_bytes // like.element_size()), num_bytes
        self.recordings: Any = torch.cuda.graph_pool_handle() if like.device.type == "cuda" else None

    def split(self, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
        """Return tensors of some shapes, one behind the other in memory."""
        sizes = [math.prod(shape) for shape in shapes]
        parts = torch.split(self._all[: sum(sizes)], sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def group_bytes(blocks: CocaBlocks, shape: GroupShape, num_image_tokens: int) -> int:
    """Return the bytes of the keys and values of one group."""
    shapes = _cache_shapes(blocks, shape, 1, num_image_tokens)
    return blocks.like.element_size() * sum(math.prod(each) for each in shapes)


def _cache_shapes(
    blocks: CocaBlocks, shape: GroupShape, num_groups: int, num_image_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of keys and values, keys first, of G groups: (layers, 2, rows, heads, positions, head width).

    They are those of the text tower, of the decoder's first self-attention, of its others, and of the image tokens.
    """
    prefixes, length, layers = num_groups * shape.prefixes, shape.positions, len(blocks.layers)
    heads, text_heads = blocks.layers[0].num_heads, blocks.text.heads
    width, text_width = blocks.width // heads, int(blocks.text.width) // text_heads
    return (
        (len(blocks.text_layers), 2, prefixes, text_heads, length, text_width),
        (1, 2, prefixes, heads, length, width),
        (layers - 1, 2, num_groups * shape.pairs, heads, length, width),
        (layers, 2, num_groups * shape.crops, heads, num_image_tokens, width),
    )


class StaticTowers:
    """The towers over the caches of one batch of G groups.

    A beam takes earlier positions from other beams: `_sources` has the row of each. So no step copies keys or values.
    """

    def __init__(
        self, blocks: CocaBlocks, shape: GroupShape, num_groups: int, num_image_tokens: int, memory: CacheMemory
    ) -> None:
        """Take the caches from `memory`, which has room for them."""
        self.blocks, self.shape, self.num_groups, self.recordings = blocks, shape, num_groups, memory.recordings
        shapes = _cache_shapes(blocks, shape, num_groups, num_image_tokens)
        self._text, self._first, self._pairs, self._image = memory.split(*shapes)
        self._numbers = torch.arange(shape.positions, device=blocks.like.device)
        # `_own` (rows, 1) int32 numbers the rows of prefixes, `_own_pairs` the rows of pairs.
        self._own, self._own_pairs = (
            torch.arange(len(each), dtype=torch.int32, device=blocks.like.device)[:, None]
            for each in (self._first[0, 0], self._pairs[0, 0])
        )
        # `attend_newest` reads these `sources` (rows, positions). -1 marks what the text tower masks as padding.
        self._text_sources, self._sources, self._pair_sources = (
            own.expand(-1, shape.positions).clone() for own in (self._own, self._own, self._own_pairs)
        )

    def attend_to(self, image_tokens: torch.Tensor) -> None:
        """Drop all prefixes, and attend to the crops of image tokens (G · C, T, D) from now on."""
        for sources, own in (
            (self._text_sources, self._own),
            (self._sources, self._own),
            (self._pair_sources, self._own_pairs),
        ):
            sources.copy_(own.expand_as(sources))
        for block, cache in zip(self.blocks.cross, self._image, strict=True):
            keys, values = block.keys_values(image_tokens)
            cache[0].copy_(keys)
            cache[1].copy_(values)

    def step(self, tokens: torch.Tensor, before: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states (G, C, Q, D) of the pairs at `position`, ready for the vocabulary.

        Args:
            tokens: (G, N) int64, the newest token of each prefix.
            before: (G, N) int64, the token before it; -1 before SOT.
            position: (1,) int64, of the newest.
        """
        blocks, shape, text = self.blocks, self.shape, self.blocks.text
        # As in `CachedCocaTowers`, `pad_id` hides the position after it, or with `correct_cls_mask` its own position.
        is_padding = (tokens if text.correct_cls_mask else before).flatten() == text.pad_id
        self._text_sources.index_copy_(1, position, self._own.masked_fill(is_padding[:, None], -1))
        x: torch.Tensor = text.token_embedding(tokens.flatten())
        addend = text.positional_embedding.index_select(0, position).expand_as(x)
        for block, cache in zip(blocks.text_layers, self._text, strict=True):
            x, addend = _attended(block, x, addend, cache, position, self._text_sources)
        # open_clip does not apply the text tower's last norm to tokens if there is a CLS token, as in every CoCa.
        x, addend = _attended(blocks.layers[0], x, addend, self._first[0], position, self._sources)
        first, *crosses = blocks.cross
        x, normed = _normed(first.ln_1, x, addend)
        x, queries = self._under_crops(x), self._under_crops(first.queries(normed))
        x, addend = self._crossed(first, x, queries, self._image[0])
        for number, (block, cross) in enumerate(zip(blocks.layers[1:], crosses, strict=True)):
            x, addend = _attended(block, x, addend, self._pairs[number], position, self._pair_sources)
            x, normed = _normed(cross.ln_1, x, addend)
            x, addend = self._crossed(cross, x, cross.queries(normed), self._image[number + 1])
        states = _normed(blocks.ln_final, x, addend)[1]
        return states.view(self.num_groups, shape.crops, shape.rows + shape.beams, -1)

    def reorder(self, parents: torch.Tensor, position: torch.Tensor) -> None:
        """Give each beam the prefix of its parent up to `position`; `parents` (G, C, B) number those of a crop."""
        shape = self.shape
        index = parents[..., None].expand(*parents.shape, shape.positions)
        is_past = self._numbers <= position
        of_pairs = self._pair_sources.view(self.num_groups, shape.crops, -1, shape.positions)[:, :, shape.rows :]
        for beams in (self._beams_of(self._text_sources), self._beams_of(self._sources), of_pairs):
            beams.copy_(beams.gather(2, index).where(is_past, beams))

    def _beams_of(self, sources: torch.Tensor) -> torch.Tensor:
        shape = self.shape
        of_groups = sources.view(self.num_groups, shape.prefixes, shape.positions)
        return split_axis(of_groups[:, shape.rows :], 1, shape.crops, shape.beams)

    def _under_crops(self, x: torch.Tensor) -> torch.Tensor:
        """Return the states (G · C · Q, D) of pairs from those of prefixes (G · N, D)."""
        shape, width = self.shape, x.shape[1]
        of_group = x.view(self.num_groups, shape.prefixes, width)
        rows = of_group[:, None, : shape.rows].expand(-1, shape.crops, -1, -1)
        beams = split_axis(of_group[:, shape.rows :], 1, shape.crops, shape.beams)
        return torch.cat((rows, beams), dim=2).view(-1, width)

    def _crossed(
        self, block: CrossAttention, x: torch.Tensor, queries: torch.Tensor, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        crops = self.num_groups * self.shape.crops
        queries = queries.view(crops, -1, block.num_heads, image.shape[-1]).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, image[0], image[1])
        return _finished(block, x, mixed.transpose(1, 2).reshape(x.shape))


def _attended(
    block: SelfAttentionBlock,
    x: torch.Tensor,
    addend: torch.Tensor,
    cache: torch.Tensor,
    position: torch.Tensor,
    sources: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what adds up to the block's output (P, D) at `position`, from what adds up to its input."""
    x, normed = _normed(block.ln_1, x, addend)
    projected = block.queries_keys_values(normed).view(len(x), 3, block.num_heads, -1)
    return _finished(block, x, attend_newest(projected, cache, position, sources))


def _finished(block: Block, x: torch.Tensor, mixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what adds up to a block's output, as of `Block.finish`: the next norm adds it."""
    x, normed = _normed(block.ln_2, x, block.ls_1(block.out(mixed)))
    return x, block.ls_2(block.narrow(block.activate(block.widen(normed))))


def _normed(norm: torch.nn.LayerNorm, x: torch.Tensor, addend: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total, normed = add_norm(x, addend, norm.weight, norm.bias, norm.eps)
    return total, normed


def split_axis(tensor: torch.Tensor, axis: int, *sizes: int) -> torch.Tensor:
    """Return a view with several axes in place of one."""
    view: torch.Tensor = tensor.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return view
