"""CLIP Surgery's architecture surgery: patches that look at what is like them, so that a response lies on its object.

A CLIP that was trained with one token an image gathers the image's meaning in a few patches of the background, and its
patches answer a text with the opposite of where its object is. In the last blocks a second path, beside the tower's
own, attends by values to values alone and skips the feed-forward layers; its patches answer where the object is. A CLIP
whose patches were trained to answer by themselves needs none of it.

Source: Li et al. 2023, arXiv 2304.05653, section 3.2 (architecture surgery).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from schemas.errors import ConfigError
from workers.towers import Clip, vision_tower


def surgery_map(model: Clip, images: torch.Tensor, *, num_blocks: int) -> torch.Tensor:
    """Return each patch in the joint space (B, D, h, w), not normalised, as `dense` of `workers.towers.read_images`.

    Args:
        model: Its image tower is a plain ViT.
        images: (B, 3, S, S) float, normalised.
        num_blocks: So many of the last blocks have the second path, at least one.

    Raises:
        ConfigError: Another kind of tower, or one with fewer blocks.
    """
    visual = vision_tower(model)
    blocks = visual.transformer.resblocks
    if not 1 <= num_blocks < len(blocks):
        raise ConfigError(
            f"surgery of the last {num_blocks} blocks of an image tower of {len(blocks)}: give 1 to {len(blocks) - 1}"
        )
    first = len(blocks) - num_blocks
    # What goes into a block is what comes out of the one before.
    out = visual.forward_intermediates(
        images,
        indices=list(range(first - 1, len(blocks) - 1)),
        output_fmt="NLC",
        output_extra_tokens=True,
        intermediates_only=True,
    )
    both = zip(out["image_intermediates_prefix"], out["image_intermediates"], strict=True)
    inputs = [torch.cat(each, 1) for each in both]
    path = inputs[0]
    for block, tokens in zip(blocks[first:], inputs, strict=True):
        path = path + block.ls_1(value_attention(block.attn, block.ln_1(tokens)))
    dense = visual.ln_post(path[:, 1:]) @ visual.proj
    grid: tuple[int, int] = visual.grid_size
    found: torch.Tensor = dense.transpose(1, 2).reshape(len(dense), -1, *grid)
    return found


def value_attention(attention: nn.MultiheadAttention, tokens: torch.Tensor) -> torch.Tensor:
    """Return v-v self-attention (B, L, C) of tokens (B, L, C): values attend to values, by their own weights."""
    width, heads = tokens.shape[-1], attention.num_heads
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    values = F.linear(tokens, weight, bias).view(*tokens.shape[:2], heads, -1).transpose(1, 2)
    read = F.scaled_dot_product_attention(values, values, values)
    out: torch.Tensor = attention.out_proj(read.transpose(1, 2).flatten(2))
    return out
