"""CoCa's towers over slots of fixed number, with caches that no step copies. For `static_engine` and `static_decoder`.

A prefix goes through the text tower and the decoder's first self-attention, which see no image; a pair is a prefix
under a crop. There are N + S · B prefix slots: of sampling rows, then of B beams of each search. There are R + S · B
pair slots: a row has as many of the first R as it reads crops, anywhere among them; beam i has pair R + i, under the
crop that it describes. A slot has a position of its own. All steps have equal shapes and addresses, so on a GPU one
is recorded, then replayed; and as no product ever changes its number of rows, no slot changes another's bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch

from pseudoris.workers.captions.cached_towers import CocaBlocks
from pseudoris.workers.captions.row_kernels import attend_image, attend_newest, shifted_norm
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.forward_passes import padded

Norm = Callable[[torch.Tensor], torch.Tensor]

# So many crops' image tokens are projected at once.
_CROPS_A_PROJECTION = 16


@dataclass(frozen=True, slots=True)
class SlotShape:
    """How many slots there are."""

    rows: int  # N, sampling rows
    pairs: int  # R, of sampling rows
    members: int  # M, the most pairs of a row
    searches: int  # S
    beams: int  # B, of each search
    positions: int  # of a caption, SOT included

    @property
    def prefixes(self) -> int:
        """N + S · B."""
        return self.rows + self.searches * self.beams

    @property
    def lone(self) -> SlotShape:
        """The searches as rows of one crop."""
        return SlotShape(self.searches, self.searches, 1, 0, 0, self.positions)

    @property
    def all_pairs(self) -> int:
        """R + S · B."""
        return self.pairs + self.searches * self.beams


class CacheMemory:
    """Keys and values at addresses that stay: of a decoder's slots or of a reader's, one at a time, and of crops.

    Attributes:
        slots: Those of slots, flat.
        image: Those of crops, (layers, 2, crops, heads, image tokens, head width), keys first.
        recordings: Memory of what a GPU records of steps over it; None on a CPU.
    """

    def __init__(self, blocks: CocaBlocks, num_elements: int, num_crops: int, num_image_tokens: int) -> None:
        """Allocate memory of slots, and that of so many crops."""
        like, heads = blocks.like, blocks.layers[0].num_heads
        self.slots = like.new_empty(num_elements)
        self.image = like.new_empty(len(blocks.layers), 2, num_crops, heads, num_image_tokens, blocks.width // heads)
        self.recordings: Any = torch.cuda.graph_pool_handle() if like.device.type == "cuda" else None


def slot_elements(blocks: CocaBlocks, shape: SlotShape) -> int:
    """Return the number of keys' and values' elements of all slots."""
    return sum(math.prod(each) for each in _cache_shapes(blocks, shape))


def _cache_shapes(blocks: CocaBlocks, shape: SlotShape) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of keys and values, keys first: (layers, 2, slots, heads, positions, head width).

    They are those of the text tower, of the decoder's first self-attention, and of its others.
    """
    length, heads, text_heads = shape.positions, blocks.layers[0].num_heads, blocks.text.heads
    width, text_width = blocks.width // heads, int(blocks.text.width) // text_heads
    return (
        (len(blocks.text_layers), 2, shape.prefixes, text_heads, length, text_width),
        (1, 2, shape.prefixes, heads, length, width),
        (len(blocks.layers) - 1, 2, shape.all_pairs, heads, length, width),
    )


class StaticTowers:
    """The towers over one memory.

    A beam takes earlier positions from other beams: `_sources` has the row of each. So no step copies keys or values.

    Attributes:
        memory: With caches of slots, and those of crops that `attend_to` fills.
        position: (N + S · B,) int64, of each prefix's newest token. At position 0 a slot has forgotten what it held.
        newest: This token.
        before: The token before it; -1 before SOT.
    """

    def __init__(self, blocks: CocaBlocks, shape: SlotShape, memory: CacheMemory) -> None:
        """Take the caches from `memory`, which has room for them."""
        self.blocks, self.shape, self.memory = blocks, shape, memory
        shapes, num_elements = _cache_shapes(blocks, shape), slot_elements(blocks, shape)
        parts = torch.split(memory.slots[:num_elements], [math.prod(each) for each in shapes])
        self._text, self._first, self._pairs = (part.view(each) for part, each in zip(parts, shapes, strict=True))
        layers, lacking = list[_Layer](), blocks.like.new_zeros(blocks.width, dtype=score_dtype(blocks.like.dtype))
        # In the order in which a row goes through them.
        for block in (*blocks.text_layers, *chain(*zip(blocks.layers, blocks.cross, strict=True))):
            layers.append(_Layer(block, lacking))
            lacking = layers[-1].lacking
        count = len(blocks.text_layers)
        self._text_layers, self._layers, self._crosses = layers[:count], layers[count::2], layers[count + 1 :: 2]
        self._final = _norm(blocks.ln_final, lacking)
        ints = partial(torch.zeros, dtype=torch.int64, device=blocks.like.device)
        self.position, self.newest, self.before = (ints(shape.prefixes) for _ in range(3))
        # Of each pair: its prefix, its crop; and the pairs in the order of their crops.
        self._prefixes, self._crops, self._by_crop = (ints(shape.all_pairs) for _ in range(3))
        self._numbers = torch.arange(shape.positions, device=blocks.like.device)
        # Numbers of pairs and of prefixes, (slots, 1) int32. Each prefix has a pair at least.
        self._own_pairs = torch.arange(shape.all_pairs, dtype=torch.int32, device=blocks.like.device)[:, None]
        self._own = self._own_pairs[: shape.prefixes]
        # `attend_newest` reads these `sources` (slots, positions). -1 marks what the text tower masks as padding.
        self._text_sources, self._sources, self._pair_sources = (
            own.expand(-1, shape.positions).clone() for own in (self._own, self._own, self._own_pairs)
        )

    def attend_to(self, image_tokens: torch.Tensor) -> None:
        """Attend to crops by their image tokens (U, T, D) from now on, as many as the memory holds at most."""
        for first in range(0, len(image_tokens), _CROPS_A_PROJECTION):
            part = image_tokens[first : first + _CROPS_A_PROJECTION]
            for block, cache in zip(self.blocks.cross, self.memory.image, strict=True):
                both = block.keys_values(padded(part, _CROPS_A_PROJECTION))
                for kept, projected in zip(cache, both, strict=True):
                    kept[first : first + len(part)].copy_(projected[: len(part)])

    def begin(self, begins: torch.Tensor, sot: int, prefixes: torch.Tensor, crops: torch.Tensor) -> None:
        """Begin the prefixes `begins` (N + S · B,) anew; each pair (R + S · B,) is now of this prefix and this crop."""
        for each, value in ((self.position, 0), (self.newest, sot), (self.before, -1)):
            each.masked_fill_(begins, value)
        self._prefixes.copy_(prefixes)
        self._crops.copy_(crops)
        self._by_crop.copy_(crops.argsort(stable=True))

    def step(self) -> torch.Tensor:
        """Return the last hidden states (R + S · B, D) of the pairs, ready for the vocabulary."""
        text, position, at = self.blocks.text, self.position, self.position[:, None]
        # As in `CachedCocaTowers`, `pad_id` hides the position after it, or with `correct_cls_mask` its own position.
        is_padding = ((self.newest if text.correct_cls_mask else self.before) == text.pad_id)[:, None]
        self._text_sources.scatter_(1, at, self._own.masked_fill(is_padding, -1))
        self._sources.scatter_(1, at, self._own)
        x = text.token_embedding(self.newest) + text.positional_embedding.index_select(0, position)
        for layer, cache in zip(self._text_layers, self._text, strict=True):
            layer.attend(x, cache, position, self._text_sources)
        # open_clip does not apply the text tower's last norm to tokens if there is a CLS token, as in every CoCa.
        self._layers[0].attend(x, self._first[0], position, self._sources)
        queries = self._crosses[0].queries(x)
        queries, x, position = (each.index_select(0, self._prefixes) for each in (queries, x, position))
        self._pair_sources.scatter_(1, position[:, None], self._own_pairs)
        self._cross(0, x, queries)
        for number, (layer, cross) in enumerate(zip(self._layers[1:], self._crosses[1:], strict=True)):
            layer.attend(x, self._pairs[number], position, self._pair_sources)
            self._cross(number + 1, x, cross.queries(x))
        return self._final(x)

    def _cross(self, number: int, x: torch.Tensor, queries: torch.Tensor) -> None:
        queries = queries.view(len(x), self._crosses[number].block.num_heads, -1)
        taken = attend_image(queries, self.memory.image[number], self._crops, self._by_crop)
        self._crosses[number].finish(x, taken)

    def reorder(self, parents: torch.Tensor, position: torch.Tensor) -> None:
        """Give each beam the prefix of its parent up to `position` (S,); `parents` (S, B) number those of a search."""
        index = parents[..., None].expand(-1, -1, len(self._numbers))
        is_past = (self._numbers <= position[:, None])[:, None]
        for sources in (self._text_sources, self._sources, self._pair_sources):
            # Beams come last.
            beams = sources[len(sources) - parents.numel() :].view(index.shape)
            beams.copy_(beams.gather(1, index).where(is_past, beams))


def _norm(norm: torch.nn.LayerNorm, lacking: torch.Tensor) -> Norm:
    """Return a layer norm of the residual stream x (P, D), plus what it lacks (D,)."""
    return lambda x: shifted_norm(x, lacking, norm.weight, norm.bias, norm.eps)


class _Layer:
    """A block over the residual stream x (P, D), to which its products add in place, without a pass of their own.

    A product adds no bias beside. So the stream lacks the biases of all products before, and each norm adds their sum.
    """

    def __init__(self, block: Any, lacking: torch.Tensor) -> None:
        self.block, self._norms, self._products = block, list[Norm](), list[torch.Tensor]()
        for norm, scale, layer in ((block.ln_1, block.ls_1, block.out_proj), (block.ln_2, block.ls_2, block.c_proj)):
            self._norms.append(_norm(norm, lacking))
            self._products.append(scale(layer.weight.detach().t()))
            lacking = lacking + scale(layer.bias.detach())
        # By the stream behind it.
        self.lacking = lacking

    def attend(self, x: torch.Tensor, cache: torch.Tensor, position: torch.Tensor, sources: torch.Tensor) -> None:
        """Add the whole block, one of self-attention, at `position`."""
        projected = self.block.queries_keys_values(self._norms[0](x)).view(len(x), 3, self.block.num_heads, -1)
        self.finish(x, attend_newest(projected, cache, position, sources))

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """Return the queries (P, D) of a block of cross-attention."""
        queries: torch.Tensor = self.block.queries(self._norms[0](x))
        return queries

    def finish(self, x: torch.Tensor, mixed: torch.Tensor) -> None:
        """Add what the heads give (P, D), and then the MLP."""
        x.addmm_(mixed, self._products[0])
        x.addmm_(self.block.activate(self.block.widen(self._norms[1](x))), self._products[1])
