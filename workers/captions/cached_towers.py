"""Runs CoCa's text tower and decoder over a prefix tree, and computes no prefix twice.

Built by `captioner`; `static_engine` decodes by it what fixed shapes cannot decide, and `static_towers` takes the
blocks. `nn.MultiheadAttention` cannot take past keys and values. So the blocks share the model's weights and compute
all but the attention, which the towers compute over their caches. A block must equal open_clip's own up to rounding.

The text tower and the decoder's first self-attention see no image and are cached per prefix; all layers after the
first cross-attention, per (prefix, crop). Image tokens' keys and values are computed once per crop. The result must
equal open_clip's full forward up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.transformer import ResidualAttentionBlock, TextTransformer

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.captions.decoding_rules import Ints, PrefixLevel
from pseudoris.workers.device import to_device
from pseudoris.workers.faults.freed_memory import OWNERS
from pseudoris.workers.forward_passes import Block, SelfAttentionBlock, linear
from pseudoris.workers.pass_sizes import CAPTION_STEP_BYTES, LEAST_CAPTION_ROWS, MOST_CAPTION_ROWS


class CrossAttention(Block):
    """A block that attends to image tokens, the same for all rows of a crop."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__(block)
        weight, bias, width = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.embed_dim
        self.ln_1_kv = block.ln_1_kv
        # `queries` maps the block's input after `ln_1`, (P, D), to queries (P, D).
        self.queries = linear(weight[:width], None if bias is None else bias[:width])
        self._keys_values = linear(weight[width:], None if bias is None else bias[width:])

    def keys_values(self, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (C, heads, T, head width) of image tokens (C, T, D)."""
        both = self._keys_values(self.ln_1_kv(image_tokens))
        keys, values = both.view(*both.shape[:2], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        return keys, values


class CocaBlocks:
    """The blocks of a CoCa, in the order in which a position goes through them."""

    def __init__(self, model: CoCa) -> None:
        """Share the weights of `model`, in eval mode on its device."""
        self.text = text = _checked_text(model.text)
        decoder = model.text_decoder
        self.text_layers = [SelfAttentionBlock(block) for block in text.transformer.resblocks]
        self.layers = [SelfAttentionBlock(block) for block in decoder.resblocks]
        # Block n of `cross` follows block n of `layers`.
        self.cross = [CrossAttention(block) for block in decoder.cross_attn]
        self.ln_final = decoder.ln_final
        self.width = int(decoder.resblocks[0].attn.embed_dim)
        # New tensors are made like this weight: all weights have its dtype and its device.
        self.like = cast(torch.Tensor, text.token_embedding.weight)


def _checked_text(text: torch.nn.Module) -> TextTransformer:
    if not isinstance(text, TextTransformer):
        wrong = (
            f"is a {type(text).__name__}; cached decoding knows open_clip's TextTransformer: "
            "choose a CoCa architecture without hf_model_name"
        )
    elif text.attn_mask is None:
        wrong = "has no_causal_mask=true and cannot decode: choose a causal one"
    elif text.cls_emb is None:
        wrong = (
            "has embed_cls=false, which open_clip 3.3 cannot run on a prefix: choose a CoCa architecture with "
            "embed_cls=true"
        )
    elif not all(isinstance(block, ResidualAttentionBlock) for block in text.transformer.resblocks):
        wrong = (
            "has custom attention blocks (qk_norm, scale_heads, ...); cached decoding knows open_clip's default block: "
            "choose an architecture without them"
        )
    else:
        return text
    raise ConfigError(f"captions: the text tower {wrong}")


_FIRST_CAPACITY = 256


def cached_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, is_hidden: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax(q · k / √d) · v, (..., Q, d), of queries (..., Q, d), keys and values (..., T, d).

    The softmax is in float32 at least. Keys whose `is_hidden`, broadcast to (..., Q, T), is set are ignored.
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


class NodeCache:
    """Keys and values of the nodes of a prefix tree, one row per node, for the layers of one tower.

    The cache is a stack: nodes are numbered in the order of writing, and freed from the end. `CacheIndex` holds the
    node numbers of a prefix's positions, so that a fork copies numbers, not keys. Memory is kept from image to image.
    """

    def __init__(self, num_layers: int, num_heads: int, width: int, *, like: torch.Tensor) -> None:
        """Start empty, with the dtype and device of `like`."""
        self._shape, self._like = (num_layers, num_heads, 2 * width // num_heads), like
        # Each layer has one tensor (heads, nodes, 2 · head width). Its last axis has a node's keys, then its values.
        self._store: list[torch.Tensor] = []
        self.node_bytes = 2 * num_layers * width * like.dtype.itemsize
        # `size` nodes are in use, and memory is allocated for `capacity` nodes.
        self.size = self.capacity = 0

    def resize(self, capacity: int) -> None:
        """Allocate at least `capacity` nodes, and never fewer than exist."""
        layers, heads, width = self._shape
        shape = (heads, max(capacity, self.size), width)
        # If an allocation below fails, some layers have the old size and some the new one. Only the smaller is safe.
        self.capacity = min(self.capacity, shape[1])
        if not self.size:
            # The old memory is freed first, because the old and the new may not fit at the same time.
            self.free()
            self._store = [self._like.new_empty(shape) for _ in range(layers)]
        for layer in range(layers if self.size else 0):
            # Memory is resized layer by layer, so that at most one layer exists twice.
            resized = self._like.new_empty(shape)
            resized[:, : self.size] = self._store[layer][:, : self.size]
            self._store[layer] = resized
        self.capacity = shape[1]

    def free(self) -> None:
        """Drop all nodes and their memory."""
        self._store, self.size, self.capacity = [], 0, 0

    def reserve(self, count: int) -> int:
        """Reserve the next `count` nodes, doubling the memory if needed; return the number of the first."""
        if self.size + count > self.capacity:
            self.resize(max(_FIRST_CAPACITY, 2 * self.capacity, self.size + count))
        first = self.size
        self.size += count
        return first

    def extend(
        self, layer: int, first: int, *, newest: tuple[torch.Tensor, torch.Tensor], nodes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the newest keys and values (P, D) from node `first` on; return those at `nodes` (P, T).

        What is returned has the shape (heads, P, T, head width).
        """
        _, heads, width = self._shape
        here = self._store[layer][:, first : first + len(newest[0])]
        for part, columns in zip(newest, (slice(width // 2), slice(width // 2, width)), strict=True):
            here[..., columns] = part.view(len(part), heads, -1).transpose(0, 1)
        rows = self._store[layer].index_select(1, nodes.reshape(-1))
        keys, values = rows.view(rows.shape[0], *nodes.shape, rows.shape[2]).chunk(2, dim=3)
        return keys, values


@dataclass(frozen=True, slots=True)
class CacheIndex:
    """The cache nodes of the positions of each prefix and pair."""

    first_prefix: int  # node of the first prefix's newest position; those of the other prefixes follow
    first_pair: int  # the same for the pairs
    prefixes: torch.Tensor  # (U, T) int64 nodes
    pairs: torch.Tensor  # (P, T) int64 nodes
    is_padding: torch.Tensor | None  # (U, T) bool, positions that the text tower masks as padding; None if none
    tokens: Ints  # (U,) the newest tokens, in host memory, where they are compared with padding


class CachedCocaTowers:
    """CoCa's text tower and multimodal decoder, as `Towers`; an encoding is a crop's image tokens (T, D)."""

    def __init__(self, model: CoCa) -> None:
        """Share the weights of `model`, in eval mode on its device."""
        self.blocks = blocks = CocaBlocks(model)
        text, like = blocks.text, blocks.like
        self.max_prefix_length = int(text.context_length)
        self._device = like.device
        heads, width = blocks.layers[0].num_heads, blocks.width
        self._text_cache = NodeCache(len(blocks.text_layers), text.heads, text.width, like=like)
        self._first_cache = NodeCache(1, heads, width, like=like)
        self._pair_cache = NodeCache(len(blocks.layers) - 1, heads, width, like=like)
        self._itemsize: int = like.dtype.itemsize
        self._image: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.num_pairs = self.num_asked = 0
        OWNERS.add(self)

    def free_memory(self) -> None:
        """Free all caches, and what is attended to."""
        self.rewind((0, 0))
        self._image = []
        for cache in (self._text_cache, self._first_cache, self._pair_cache):
            cache.free()

    def image_bytes(self, encodings: Sequence[torch.Tensor]) -> int:
        """Return the bytes of the cross-attention keys and values."""
        return len(encodings) * len(encodings[0]) * 2 * len(self.blocks.cross) * self.blocks.width * self._itemsize

    def attend_to(self, encodings: Sequence[torch.Tensor]) -> None:
        """Compute the cross-attention keys and values."""
        self.rewind((0, 0))
        # The previous crops' keys and values are freed first, because old and new ones may not fit at the same time.
        self._image = []
        image_tokens = torch.stack(tuple(encodings))
        self._image = [block.keys_values(image_tokens) for block in self.blocks.cross]

    def mark(self) -> tuple[int, int]:
        """Return the sizes of the caches of prefixes and pairs."""
        return self._text_cache.size, self._pair_cache.size

    def rewind(self, mark: tuple[int, int]) -> None:
        """Free the end of the stacks."""
        self._text_cache.size = self._first_cache.size = mark[0]
        self._pair_cache.size = mark[1]

    def bytes_after(self, level: PrefixLevel, num_steps: int) -> int:
        """Count the nodes of prefixes and pairs."""
        return sum(count * cache.node_bytes for cache, count in self._nodes_after(level, num_steps))

    def make_room(self, level: PrefixLevel, num_steps: int, budget_bytes: int) -> int:
        """Allocate in one step, instead of by doubling; what may be freed is memory of earlier images."""
        needed = self._nodes_after(level, num_steps)
        most_bytes = sum(max(count, cache.capacity) * cache.node_bytes for cache, count in needed)
        for cache, count in needed:
            if count > cache.capacity or (most_bytes > budget_bytes and count < cache.capacity):
                cache.resize(count)
        return sum(cache.capacity * cache.node_bytes for cache, _ in needed)

    def _nodes_after(self, level: PrefixLevel, num_steps: int) -> list[tuple[NodeCache, int]]:
        """Return how many nodes each cache has after `num_steps` more levels as wide as `level`."""
        prefixes = self._text_cache.size + num_steps * len(level.tokens)
        pairs = self._pair_cache.size + num_steps * len(level.pair_prefix)
        return [(self._text_cache, prefixes), (self._first_cache, prefixes), (self._pair_cache, pairs)]

    def step(self, level: PrefixLevel, before: CacheIndex | None) -> tuple[torch.Tensor, CacheIndex]:
        """Compute the newest position of the level's prefixes, then of its pairs."""
        self.num_pairs += len(level.pair_prefix)
        cache_index = self._extend_index(level, before)
        # The states (U, D) after the decoder's first self-attention, and their queries, are the same for all crops.
        blocks, all_states, all_queries = self.blocks, [], []
        text = blocks.text
        for rows in self._parts(len(cache_index.prefixes), cache_index.prefixes.shape[1]):
            nodes, first = cache_index.prefixes[rows], cache_index.first_prefix + rows.start
            is_hidden = None if cache_index.is_padding is None else cache_index.is_padding[rows]
            tokens = to_device(cache_index.tokens[rows], self._device)
            x: torch.Tensor = text.token_embedding(tokens) + text.positional_embedding[nodes.shape[1] - 1]
            for layer, block in enumerate(blocks.text_layers):
                x = _self_step(block, x, self._text_cache, layer=layer, first=first, nodes=nodes, is_hidden=is_hidden)
            # open_clip does not apply the text tower's last norm to tokens if there is a CLS token, as in every CoCa.
            states = _self_step(blocks.layers[0], x, self._first_cache, layer=0, first=first, nodes=nodes)
            all_states.append(states)
            all_queries.append(blocks.cross[0].queries(blocks.cross[0].ln_1(states)))
        first_states, queries = torch.cat(all_states), torch.cat(all_queries)
        hidden = first_states.new_empty(len(level.pair_prefix), first_states.shape[1])
        for rows in self._parts(len(hidden), cache_index.pairs.shape[1]):
            crops, node = level.pair_crop[rows], cache_index.first_pair + rows.start
            present = slice(int(crops[0]), int(crops[-1]) + 1)
            crops = crops - present.start
            # Pairs are sorted by crop, so a pair's number in its crop is its distance from the crop's first pair.
            counts = np.bincount(crops, minlength=present.stop - present.start)
            rows_a_crop = int(counts.max())
            numbers = crops * rows_a_crop + np.arange(len(crops)) - (np.cumsum(counts) - counts)[crops]
            slots, prefix = (to_device(each, self._device) for each in (numbers, level.pair_prefix[rows]))
            image = [(keys[present], values[present]) for keys, values in self._image]
            x, asked = first_states[prefix], queries[prefix]
            x = _cross_step(blocks.cross[0], x, asked, keys_values=image[0], slots=slots, rows_a_crop=rows_a_crop)
            for layer, (block, cross) in enumerate(zip(blocks.layers[1:], blocks.cross[1:], strict=True)):
                x = _self_step(block, x, self._pair_cache, layer=layer, first=node, nodes=cache_index.pairs[rows])
                asked = cross.queries(cross.ln_1(x))
                x = _cross_step(cross, x, asked, keys_values=image[layer + 1], slots=slots, rows_a_crop=rows_a_crop)
            hidden[rows] = blocks.ln_final(x)
        return hidden, cache_index

    def _parts(self, num_rows: int, num_positions: int) -> Iterator[slice]:
        """Slices of rows that are computed together, so that a layer's temporaries stay below their bound."""
        # A row's temporaries are gathered keys and values, the MLP before and after its activation, and four states.
        row_bytes = max(self.blocks.width, self.blocks.text.width) * self._itemsize * (2 * num_positions + 8 + 4)
        allowed = CAPTION_STEP_BYTES[self._device.type] // row_bytes
        num_together = min(max(LEAST_CAPTION_ROWS, allowed), MOST_CAPTION_ROWS)
        for first in range(0, num_rows, num_together):
            yield slice(first, min(first + num_together, num_rows))

    def _extend_index(self, level: PrefixLevel, before: CacheIndex | None) -> CacheIndex:
        num_prefixes, num_pairs, device = len(level.tokens), len(level.pair_prefix), self._device
        first_prefix = self._text_cache.reserve(num_prefixes)
        self._first_cache.reserve(num_prefixes)
        first_pair = self._pair_cache.reserve(num_pairs)
        prefixes = torch.arange(first_prefix, first_prefix + num_prefixes, device=device)[:, None]
        pairs = torch.arange(first_pair, first_pair + num_pairs, device=device)[:, None]
        if before is None:
            return CacheIndex(first_prefix, first_pair, prefixes, pairs, None, level.tokens)
        parents, pair_parents = (to_device(each, device) for each in (level.parents, level.pair_parent))
        # open_clip's padding mask is built as if the CLS token came first, but it comes last: a token `pad_id` hides
        # the position after it. With `correct_cls_mask` it hides its own.
        masked_tokens = level.tokens if self.blocks.text.correct_cls_mask else before.tokens[level.parents]
        is_newest, is_padding = masked_tokens == self.blocks.text.pad_id, None
        if before.is_padding is not None:
            is_padding = torch.cat((before.is_padding[parents], to_device(is_newest[:, None], device)), dim=1)
        elif is_newest.any():
            is_padding = F.pad(to_device(is_newest[:, None], device), (before.prefixes.shape[1], 0))
        return CacheIndex(
            first_prefix,
            first_pair,
            torch.cat((before.prefixes[parents], prefixes), dim=1),
            torch.cat((before.pairs[pair_parents], pairs), dim=1),
            is_padding,
            level.tokens,
        )


def _self_step(
    block: SelfAttentionBlock,
    x: torch.Tensor,
    cache: NodeCache,
    *,
    layer: int,
    first: int,
    nodes: torch.Tensor,
    is_hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the block's output (P, D) for its input x (P, D), at the newest position of each row.

    Keys and values are written to the nodes from `first` on, and read at `nodes` (P, T) that are not `is_hidden`.
    """
    queries, keys, values = block.queries_keys_values(block.ln_1(x)).chunk(3, dim=-1)
    past_keys, past_values = cache.extend(layer, first, newest=(keys, values), nodes=nodes)
    queries = queries.reshape(len(x), block.num_heads, 1, -1).transpose(0, 1)
    hidden = None if is_hidden is None else is_hidden[None, :, None, :]
    mixed = cached_attention(queries, past_keys, past_values, hidden)
    return block.finish(x, mixed[:, :, 0].transpose(0, 1).reshape(len(x), -1))


def _cross_step(
    block: CrossAttention,
    x: torch.Tensor,
    queries: torch.Tensor,
    *,
    keys_values: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
    rows_a_crop: int,
) -> torch.Tensor:
    """Return the block's output (P, D) for its input x (P, D), each row attending to the image tokens of its crop.

    `slots` (P,) int64 are crop · rows_a_crop + number of the row within its crop, of at most `rows_a_crop`. So padded,
    a crop's image tokens are read once for all its rows.
    """
    keys, values = keys_values
    num_crops, num_heads, _, head_width = keys.shape
    padded = queries.new_zeros(num_crops * rows_a_crop, queries.shape[1])
    padded[slots] = queries
    grouped = padded.view(num_crops, rows_a_crop, num_heads, head_width).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(grouped, keys, values).transpose(1, 2).reshape(padded.shape)
    return block.finish(x, mixed[slots])
