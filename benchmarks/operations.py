"""Floating-point operations of the authors' loop, for the rows that are too slow to time."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip.coca_model import CoCa

from schemas.config import CaptionsConfig

# A multiplication and an addition.
_PER_MULTIPLY = 2


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
