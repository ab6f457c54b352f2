"""Builds and loads SAM: `segment_anything`'s modules from an architecture given as numbers. No open_clip."""

from __future__ import annotations

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture, sam_architecture
from pseudoris.workers.checkpoints.tensor_files import loaded

# Source: segment-anything 1.0, build_sam.py: for RGB in [0, 255].
_PIXEL_MEAN, _PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MASK_IN_CHANNELS = 16


def build_sam(architecture: SamArchitecture) -> Sam:
    """Return a Sam in eval mode, built from the architecture's numbers, with weights drawn from torch's generator."""
    grid = architecture.image_size // architecture.patch_size
    encoder = ImageEncoderViT(
        depth=architecture.encoder_depth,
        embed_dim=architecture.encoder_width,
        img_size=architecture.image_size,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=architecture.encoder_heads,
        patch_size=architecture.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=architecture.encoder_global_blocks,
        window_size=architecture.window_size,
        out_chans=architecture.prompt_width,
    )
    prompts = PromptEncoder(
        embed_dim=architecture.prompt_width,
        image_embedding_size=(grid, grid),
        input_image_size=(architecture.image_size, architecture.image_size),
        mask_in_chans=_MASK_IN_CHANNELS,
    )
    decoder = MaskDecoder(
        # As published.
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=architecture.decoder_depth,
            embedding_dim=architecture.prompt_width,
            mlp_dim=architecture.decoder_mlp_width,
            num_heads=architecture.decoder_heads,
        ),
        transformer_dim=architecture.prompt_width,
        iou_head_depth=architecture.iou_head_depth,
        iou_head_hidden_dim=architecture.iou_head_width,
    )
    return Sam(encoder, prompts, decoder, pixel_mean=list(_PIXEL_MEAN), pixel_std=list(_PIXEL_STD)).eval()


def load_sam(architecture: str, weights: WeightsConfig) -> Sam:
    """Return a Sam in eval mode, float32, on the CPU, of the architecture that a config names.

    Raises:
        ConfigError: No such architecture; weights missing, damaged, or of another one.
    """
    numbers = sam_architecture(architecture)
    return loaded(lambda: build_sam(numbers), weights)
