"""Operations and bytes: of one operation of torch, for `gpu_limits`, and of the authors' loop, too slow to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.coca_model import CoCa
from torch.utils._pytree import tree_leaves

from pseudoris.schemas.config import CaptionsConfig

# A multiplication and an addition.
_PER_MULTIPLY = 2
# Of what they read from, only the rows that come out.
_GATHERS = frozenset({"index_select", "index", "embedding", "gather"})
# In place these write as much as they are given, wherever it goes; what they are given comes last.
_SCATTERS = frozenset({"index_copy_", "index_fill_", "index_put_", "index_add_", "scatter_"})
# These need not read what they write over.
_OVERWRITES = frozenset({"copy_", "fill_", "zero_"})


def memory_bytes(tensor: torch.Tensor) -> float:
    """Return the bytes of a tensor in memory, where what is expanded lies once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def bytes_moved(
    function: Any,
    given: tuple[tuple[Any, ...], dict[str, Any] | None],
    result: Any,
    size: Callable[[torch.Tensor], float] = memory_bytes,
) -> float:
    """Return what an operation read and wrote, by the `size` of each tensor; 0 where it made a view, or room alone."""
    name: str = function.overloadpacket.__name__
    read, made = _tensors(given), _tensors(result)
    memory = {_memory(tensor) for tensor in read}
    new = [tensor for tensor in made if _memory(tensor) not in memory]
    if name in _GATHERS:
        return sum(size(one) for one in read if not one.is_floating_point()) + 2 * sum(map(size, new))
    if name in _SCATTERS:
        return sum(map(size, read[1:])) + size(read[-1])
    if name.endswith("_"):
        return sum(map(size, read)) + (0 if name in _OVERWRITES else size(read[0]))
    if name.startswith(("empty", "new_empty")) or not (new or "out" in (given[1] or {})):
        return 0
    return sum(map(size, read)) + sum(map(size, new))


def _tensors(tree: object) -> list[torch.Tensor]:
    found = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}
    return list(found.values())


def _memory(tensor: torch.Tensor) -> int:
    """Return what tells whether two tensors are views of one memory."""
    return id(tensor) if tensor.is_meta else tensor.untyped_storage().data_ptr()


def attention(queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, **__: Any) -> int:
    """Return the operations of scores and mixing, of the shapes of queries, keys and values."""
    pairs = math.prod(queries[:-1]) * keys[-2]
    return _PER_MULTIPLY * pairs * (queries[-1] + values[-1])


def added_product(_total: torch.Size, a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    """Return the operations of a product that is added to a tensor, of the three shapes."""
    return _PER_MULTIPLY * math.prod(a) * b[-1]


def sampling_operations(
    model: CoCa, caption_lengths: Sequence[int], captions: CaptionsConfig, *, num_masks: int
) -> float:
    """Return the operations of whole prefixes at every step, text tower once a prefix, decoder once a (prefix, crop).

    Args:
        model: Gives the sizes.
        caption_lengths: Tokens of each sampled caption, without SOT and EOS: a finished row leaves the loop.
        captions: Gives the number of steps.
        num_masks: Crops under which each prefix is decoded.
    """
    total = 0.0
    for length in range(1, captions.max_length - 1):
        num_rows = sum(tokens >= length - 1 for tokens in caption_lengths)
        total += num_rows * (_text_operations(model, length) + num_masks * _decoder_operations(model, length))
    return total


def _text_operations(model: CoCa, length: int) -> float:
    # open_clip appends the CLS token.
    blocks = model.text.transformer.resblocks
    return len(blocks) * _self_attention_block(length + 1, model.text.width)


def _decoder_operations(model: CoCa, length: int) -> float:
    decoder = model.text_decoder
    width, vocabulary = (int(size) for size in decoder.text_projection.shape)
    num_image_tokens = int(model.visual.attn_pool.query.shape[0]) - 1
    image_width = int(decoder.cross_attn[0].ln_1_kv.weight.shape[0])
    cross = _cross_attention_block(length, num_image_tokens, width, image_width)
    layers = len(decoder.resblocks) * (_self_attention_block(length, width) + cross)
    return layers + _PER_MULTIPLY * length * width * vocabulary


def _self_attention_block(length: int, width: int) -> float:
    """Four projections, an MLP of fourfold width, scores and mixing."""
    return _PER_MULTIPLY * (12 * length * width**2 + 2 * length**2 * width)


def _cross_attention_block(length: int, num_image_tokens: int, width: int, image_width: int) -> float:
    """As above, but keys and values come from the image tokens."""
    text_side = 10 * length * width**2 + 2 * length * num_image_tokens * width
    return _PER_MULTIPLY * (text_side + 2 * num_image_tokens * image_width * width)
