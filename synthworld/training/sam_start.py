"""A start for a ViT that learns in minutes: the encoder of the recipe's SAM, which sees the same grid of patches."""

from __future__ import annotations

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import VisionTransformer
from segment_anything.modeling import Sam

_SAM_NAMES = {
    f"{own}.{kind}": f"{of_sam}.{kind}"
    for own, of_sam in (
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("attn.out_proj", "attn.proj"),
        ("mlp.c_fc", "mlp.lin1"),
        ("mlp.c_proj", "mlp.lin2"),
    )
    for kind in ("weight", "bias")
} | {"attn.in_proj_weight": "attn.qkv.weight", "attn.in_proj_bias": "attn.qkv.bias"}


@torch.no_grad()
def start_from_sam(visual: VisionTransformer, sam: Sam) -> None:
    """Sets the first blocks of an image tower to those of SAM's encoder.

    SAM takes pixels normalised by other numbers, and adds a bias to its patches: both go into the patch embedding and
    the positions. Blocks behind SAM's last stay as they were drawn. SAM's own has neither a class token nor a norm
    before its blocks.
    """
    encoder = sam.image_encoder
    gain = 255 * torch.tensor(OPENAI_DATASET_STD) / sam.pixel_std.flatten()
    offset = (255 * torch.tensor(OPENAI_DATASET_MEAN) - sam.pixel_mean.flatten()) / sam.pixel_std.flatten()
    filters = encoder.patch_embed.proj.weight
    visual.conv1.weight.copy_(filters * gain[None, :, None, None])
    bias = encoder.patch_embed.proj.bias + (filters * offset[None, :, None, None]).sum((1, 2, 3))
    visual.positional_embedding[1:].copy_(encoder.pos_embed.flatten(0, 2) + bias)
    for block, given in zip(visual.transformer.resblocks, encoder.blocks, strict=False):
        for own, of_sam in _SAM_NAMES.items():
            block.get_parameter(own).copy_(given.get_parameter(of_sam))
