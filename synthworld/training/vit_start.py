"""A start for a ViT that learns in minutes: patches that are not noise, and attention that looks at its like.

open_clip draws both at random, and colours are then learnt in minutes and shapes are not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import nn

# Variance below which a component of patches counts as grain: it is let through in proportion, not at full size.
_GRAIN_VARIANCE = 0.03
# The size of a patch's components beside the position's, whose standard deviation is 0.54.
_CONTENT_STD = 0.7
# Source: Trockman and Kolter 2023, section 4: how much of the identity and of noise is in the two products of weights.
_LOOK_IDENTITY, _LOOK_NOISE = 0.7, 0.7
_SPEAK_IDENTITY, _SPEAK_NOISE = -0.4, 0.4


@torch.no_grad()
def whiten_patches(visual: VisionTransformer, images: torch.Tensor) -> None:
    """Sets the patch embedding to the principal components of the patches of images (B, 3, H, W), whitened.

    128 components of 432 hold 98 % of the variance of a scene's patches; random filters mostly answer to its grain.
    """
    size = visual.patch_size
    patches = F.unfold(images, kernel_size=size, stride=size).transpose(1, 2).flatten(0, 1).double()
    patches = patches - patches.mean(0)
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    width = visual.conv1.weight.shape[0]
    kept, directions = variances.flip(0)[:width], components.flip(1)[:, :width]
    filters = (directions / (kept + _GRAIN_VARIANCE).sqrt()).T * _CONTENT_STD
    # The sign of an eigenvector is the library's choice: the largest weight is made positive.
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    visual.conv1.weight.copy_((filters * largest.sign()).float().view_as(visual.conv1.weight))


@torch.no_grad()
def start_attention(visual: VisionTransformer) -> None:
    """Sets each block's attention so that a patch looks at patches like it, near it above all.

    Source: Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers": queries and keys whose product
    is the identity and noise, values and output whose product is minus the identity and noise.
    """
    for block in visual.transformer.resblocks:
        attention: nn.MultiheadAttention = block.attn
        width, heads = attention.embed_dim, attention.num_heads
        pairs = [_factors(width, width // heads, _LOOK_IDENTITY, _LOOK_NOISE) for _ in range(heads)]
        value, output = _factors(width, width, _SPEAK_IDENTITY, _SPEAK_NOISE)
        queries, keys = (torch.cat(each) for each in zip(*pairs, strict=True))
        attention.in_proj_weight.copy_(torch.cat((queries, keys, value)))
        attention.out_proj.weight.copy_(output.T)


def _factors(width: int, rank: int, identity: float, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices (rank, width) A and B whose product Aᵀ B is nearest to `identity` · I + `noise` · Z."""
    target = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    left, sizes, right = torch.linalg.svd(target)
    roots = sizes[:rank].sqrt()
    return (left[:, :rank] * roots).T, roots[:, None] * right[:rank]
