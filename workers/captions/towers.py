"""CoCa's towers, one position at a time: what depends on the prefix alone is computed once a prefix.

The text tower and the decoder's first self-attention see no image; their keys and values are cached per
prefix. What follows the first cross-attention is cached per (prefix, crop). The keys and values of the
image tokens are computed once a crop and layer. The result equals open_clip's full forward to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.transformer import ResidualAttentionBlock, TextTransformer

from schemas.errors import ConfigError
from schemas.measures import BATCH_FILL, record
from workers.blocks import finish_block
from workers.captions.attention import NodeCache
from workers.captions.blocks import CropSlots, CrossAttention, SelfAttention
from workers.captions.tree import Frontier, Ints, crop_slots
from workers.captions.vocabulary import score_dtype
from workers.compilation import compile_rows, padded
from workers.device import to_device

# Crops a forward pass of the image tower; bounds its activations on images with many masks.
_CROPS_A_PASS = 64
# Rows of a step are computed in parts whose temporaries stay below this.
_TEMPORARY_BYTES = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}
_LEAST_ROWS = 64
# CUDA's attention kernels take as many of them as a grid has blocks along its second axis, 65,535.
_MOST_ROWS = 2**15


@dataclass(frozen=True, slots=True)
class EncodedCrops:
    """The image tower's output for C crops.

    Attributes:
        embeddings: (C, E) float32 or float64 unit vectors, whose products are the similarities s_ij.
        tokens: (C, T, D) in the model's dtype, what the decoder attends to.
    """

    embeddings: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the positions of each prefix and pair stand in the caches.

    Attributes:
        first_prefix: Node of the first prefix's newest position; those of the others follow it.
        first_pair: The same for the pairs.
        prefixes: (U, T) int64 nodes.
        pairs: (P, T) int64 nodes.
        is_padding: (U, T) bool, positions that the text tower takes for padding; None where it takes none.
        tokens: (U,) int64, the newest tokens.
    """

    first_prefix: int
    first_pair: int
    prefixes: torch.Tensor
    pairs: torch.Tensor
    is_padding: torch.Tensor | None
    tokens: torch.Tensor


def encode_crops(model: CoCa, crops: torch.Tensor, *, is_compiled: bool = False) -> EncodedCrops:
    """Return embeddings and tokens of normalised crops (C, 3, S, S), in passes of a fixed size.

    Of a compiled tower the last pass has the size of the others too: each size would be compiled anew.
    """
    passes = torch.split(crops, _CROPS_A_PASS)
    for part in passes:
        record(BATCH_FILL, len(part) / _CROPS_A_PASS, of="caption crops")
    parts = [model(padded(part, _CROPS_A_PASS) if is_compiled else part) for part in passes]
    features = torch.cat([part["image_features"] for part in parts])[: len(crops)]
    embeddings = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
    return EncodedCrops(embeddings, torch.cat([part["image_embs"] for part in parts])[: len(crops)])


class CachedDecoder:
    """Text tower and multimodal decoder over the frontiers of one prefix tree."""

    def __init__(self, model: CoCa, *, is_compiled: bool = False) -> None:
        """Wrap `model`, whose weights are shared.

        Args:
            model: In eval mode, on its device.
            is_compiled: Compile what each block does after its heads.

        Raises:
            ConfigError: A text tower that cannot be decoded token by token.
        """
        self._text = _checked_text(model.text)
        finish = compile_rows(finish_block) if is_compiled else finish_block
        decoder = model.text_decoder
        self._layers = [SelfAttention(block, finish=finish) for block in decoder.resblocks]
        self._cross = [CrossAttention(block, finish=finish) for block in decoder.cross_attn]
        self._ln_final = decoder.ln_final
        self._text_layers = [SelfAttention(block, finish=finish) for block in self._text.transformer.resblocks]
        heads, width = self._layers[0].num_heads, int(decoder.resblocks[0].attn.embed_dim)
        self._text_cache = NodeCache(len(self._text_layers), self._text.heads, self._text.width)
        self._first_cache = NodeCache(1, heads, width)
        self._pair_cache = NodeCache(len(self._layers) - 1, heads, width)
        dtype = self._text.token_embedding.weight.dtype
        self._width, self._itemsize = width, dtype.itemsize
        self._prefix_bytes = NodeCache.node_bytes(len(self._text_layers), self._text.width, dtype)
        self._prefix_bytes += NodeCache.node_bytes(1, width, dtype)
        # What one (prefix, crop) takes in the caches.
        self.pair_bytes = NodeCache.node_bytes(len(self._layers) - 1, width, dtype)
        self._image: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def max_prefix_length(self) -> int:
        """The longest prefix, SOT included, that the model has positions for."""
        return int(self._text.context_length)

    def image_bytes(self, num_crops: int, num_tokens: int) -> int:
        """Return what the cross-attention keys and values of crops with `num_tokens` image tokens take."""
        dtype = self._text.token_embedding.weight.dtype
        return num_crops * num_tokens * NodeCache.node_bytes(len(self._cross), self._width, dtype)

    def begin(self, image_tokens: torch.Tensor) -> None:
        """Forget all prefixes and attend to the image tokens (C, T, D) from now on."""
        self.rewind((0, 0))
        # Those of the images before are given back first: both at once may be more than there is.
        self._image = []
        self._image = [block.keys_values(image_tokens) for block in self._cross]

    def mark(self) -> tuple[int, int]:
        """Return the fill of the caches, for `rewind`."""
        return self._text_cache.size, self._pair_cache.size

    def rewind(self, mark: tuple[int, int]) -> None:
        """Free what was cached after `mark`."""
        self._text_cache.size = self._first_cache.size = mark[0]
        self._pair_cache.size = mark[1]

    def bytes_after(self, frontier: Frontier, num_steps: int) -> int:
        """Return what the caches hold if `num_steps` more levels are as wide as `frontier`."""
        prefixes = self._text_cache.size + num_steps * frontier.num_prefixes
        pairs = self._pair_cache.size + num_steps * frontier.num_pairs
        return prefixes * self._prefix_bytes + pairs * self.pair_bytes

    def make_room(self, frontier: Frontier, num_steps: int, budget_bytes: int) -> None:
        """Take the memory for `num_steps` more levels as wide as `frontier`, at once instead of by doubling.

        Memory that an earlier image took is given back where the caches would hold more than `budget_bytes` with it.
        """
        like = self._text.token_embedding.weight
        prefixes = self._text_cache.size + num_steps * frontier.num_prefixes
        pairs = self._pair_cache.size + num_steps * frontier.num_pairs
        wanted = ((self._text_cache, prefixes), (self._first_cache, prefixes), (self._pair_cache, pairs))
        most_prefixes = max(prefixes, self._text_cache.capacity)
        most_pairs = max(pairs, self._pair_cache.capacity)
        is_too_much = most_prefixes * self._prefix_bytes + most_pairs * self.pair_bytes > budget_bytes
        for cache, count in wanted:
            if count > cache.capacity or (is_too_much and count < cache.capacity):
                cache.resize(count, like)

    @property
    def allocated_bytes(self) -> int:
        """What the caches have taken."""
        return self._text_cache.capacity * self._prefix_bytes + self._pair_cache.capacity * self.pair_bytes

    def step(self, frontier: Frontier, before: Pages | None) -> tuple[torch.Tensor, Pages]:
        """Return the last hidden states (P, D) of the frontier's pairs, ready for the vocabulary, and its pages."""
        pages = self._turn_pages(frontier, before)
        first, queries = self._states_of_prefixes(pages)
        hidden = first.new_empty(frontier.num_pairs, first.shape[1])
        for rows in self._parts(frontier.num_pairs, pages.pairs.shape[1]):
            hidden[rows] = self._states_of_pairs(frontier, pages, rows, first, queries)
        return hidden, pages

    def _states_of_prefixes(self, pages: Pages) -> tuple[torch.Tensor, torch.Tensor]:
        """What sees no image: (U, D) after the decoder's first self-attention, and the queries that follow it."""
        parts = []
        for rows in self._parts(len(pages.prefixes), pages.prefixes.shape[1]):
            text, node = self._text_step(pages, rows), pages.first_prefix + rows.start
            states = self._layers[0].step(text, self._first_cache, layer=0, first=node, pages=pages.prefixes[rows])
            parts.append((states, self._cross[0].queries(states)))
        return torch.cat([states for states, _ in parts]), torch.cat([queries for _, queries in parts])

    def _states_of_pairs(
        self, frontier: Frontier, pages: Pages, rows: slice, first: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """The hidden states of some pairs, through all layers, ready for the vocabulary."""
        crops, node = frontier.pair_crop[rows], pages.first_pair + rows.start
        present = slice(int(crops[0]), int(crops[-1]) + 1)
        slots, rows_a_crop = crop_slots(crops - present.start, present.stop - present.start)
        crop_rows = CropSlots(self._index(slots), rows_a_crop)
        image = [(keys[present], values[present]) for keys, values in self._image]
        prefix = self._index(frontier.pair_prefix[rows])
        x = self._cross[0].step(first[prefix], queries[prefix], keys_values=image[0], slots=crop_rows)
        for layer, (block, cross) in enumerate(zip(self._layers[1:], self._cross[1:], strict=True)):
            x = block.step(x, self._pair_cache, layer=layer, first=node, pages=pages.pairs[rows])
            x = cross.step(x, cross.queries(x), keys_values=image[layer + 1], slots=crop_rows)
        hidden: torch.Tensor = self._ln_final(x)
        return hidden

    def _parts(self, num_rows: int, num_positions: int) -> Iterator[slice]:
        """Rows that are computed together: no more than keep a layer's temporaries below their bound."""
        # Keys and values of all positions, gathered; the MLP before and after its activation; some states.
        a_row = max(self._width, self._text.width) * self._itemsize * (2 * num_positions + 8 + 4)
        allowed = _TEMPORARY_BYTES[self._text.token_embedding.weight.device.type] // a_row
        together = min(max(_LEAST_ROWS, allowed), _MOST_ROWS)
        for start in range(0, num_rows, together):
            yield slice(start, min(start + together, num_rows))

    def _index(self, values: Ints) -> torch.Tensor:
        return to_device(values, self._text.token_embedding.weight.device)

    def _turn_pages(self, frontier: Frontier, before: Pages | None) -> Pages:
        like = self._text.token_embedding.weight
        first_prefix = self._text_cache.reserve(frontier.num_prefixes, like)
        self._first_cache.reserve(frontier.num_prefixes, like)
        first_pair = self._pair_cache.reserve(frontier.num_pairs, like)
        prefixes = torch.arange(first_prefix, first_prefix + frontier.num_prefixes, device=like.device)[:, None]
        pairs = torch.arange(first_pair, first_pair + frontier.num_pairs, device=like.device)[:, None]
        tokens = self._index(frontier.tokens)
        if before is None:
            return Pages(first_prefix, first_pair, prefixes, pairs, None, tokens)
        parents = self._index(frontier.parents)
        return Pages(
            first_prefix,
            first_pair,
            torch.cat((before.prefixes[parents], prefixes), dim=1),
            torch.cat((before.pairs[self._index(frontier.pair_parent)], pairs), dim=1),
            self._padding(before, parents, tokens),
            tokens,
        )

    def _padding(self, before: Pages, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor | None:
        """Which positions the text tower's mask hides.

        open_clip's mask puts the CLS token in front although it stands at the end: a token `pad_id` hides
        the position after it. `correct_cls_mask` hides the token's own.
        """
        looked_at = tokens if self._text.correct_cls_mask else before.tokens[parents]
        newest = (looked_at == self._text.pad_id)[:, None]
        if before.is_padding is None:
            if not bool(newest.any()):
                return None
            return F.pad(newest, (before.prefixes.shape[1], 0))
        return torch.cat((before.is_padding[parents], newest), dim=1)

    def _text_step(self, pages: Pages, rows: slice) -> torch.Tensor:
        text, nodes = self._text, pages.prefixes[rows]
        x: torch.Tensor = text.token_embedding(pages.tokens[rows]) + text.positional_embedding[nodes.shape[1] - 1]
        node, is_hidden = pages.first_prefix + rows.start, None if pages.is_padding is None else pages.is_padding[rows]
        for layer, block in enumerate(self._text_layers):
            x = block.step(x, self._text_cache, layer=layer, first=node, pages=nodes, is_hidden=is_hidden)
        # With a CLS token, as every CoCa has it, the tokens leave the tower before its last norm.
        return x


def _checked_text(text: torch.nn.Module) -> TextTransformer:
    """The text tower, if a token's state depends on the tokens before it alone and the blocks are known."""
    if not isinstance(text, TextTransformer):
        raise ConfigError(
            f"captions: the text tower is a {type(text).__name__}; cached decoding knows open_clip's TextTransformer: "
            "choose a CoCa architecture without hf_model_name"
        )
    if text.attn_mask is None:
        raise ConfigError("captions: the text tower has no_causal_mask=true and cannot decode: choose a causal one")
    if text.cls_emb is None:
        raise ConfigError(
            "captions: the text tower has embed_cls=false, which open_clip 3.3 cannot run on a prefix: choose a CoCa "
            "architecture with embed_cls=true"
        )
    if not all(isinstance(block, ResidualAttentionBlock) for block in text.transformer.resblocks):
        raise ConfigError(
            "captions: the text tower has custom attention blocks (qk_norm, scale_heads, ...); cached decoding knows "
            "open_clip's default block: choose an architecture without them"
        )
    return text
