"""Builds and loads the three models of a run. The stages load their models only through this module.

`segment_anything`'s Sam is built from an architecture given as numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from pseudoris.schemas.config import SamArchitecture, WeightsConfig
from pseudoris.workers.checkpoints.openclip import build_clip, build_coca, read_model_config
from pseudoris.workers.checkpoints.weight_files import random_seed
from pseudoris.workers.checkpoints.weights import check_activation, load_into

# Source: segment-anything 1.0, build_sam.py: for RGB in [0, 255].
_PIXEL_MEAN, _PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MASK_IN_CHANNELS = 16
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build_sam(architecture: SamArchitecture) -> Sam:
    """Return a Sam in eval mode, built from the architecture's numbers, with weights drawn from torch's generator."""
    grid = architecture.image_size // architecture.patch_size
    sam = Sam(
        image_encoder=_image_encoder(architecture),
        prompt_encoder=PromptEncoder(
            embed_dim=architecture.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(architecture.image_size, architecture.image_size),
            mask_in_chans=_MASK_IN_CHANNELS,
        ),
        mask_decoder=_mask_decoder(architecture),
        pixel_mean=list(_PIXEL_MEAN),
        pixel_std=list(_PIXEL_STD),
    )
    return sam.eval()


def _image_encoder(architecture: SamArchitecture) -> ImageEncoderViT:
    """The image tower."""
    return ImageEncoderViT(
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


def _mask_decoder(architecture: SamArchitecture) -> MaskDecoder:
    """The mask decoder: three masks per prompt, as published."""
    return MaskDecoder(
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


def load_sam(architecture: SamArchitecture, weights: WeightsConfig) -> Sam:
    """Return a Sam in eval mode, float32, on the CPU.

    Raises:
        ConfigError: weights missing, damaged, or of another architecture.
    """
    return _loaded(lambda: build_sam(architecture), weights)


def load_coca(architecture: str, weights: WeightsConfig) -> CoCa:
    """Return a CoCa in eval mode, float32, on the CPU; `architecture` as in `captions.architecture`.

    Raises:
        ConfigError: unknown architecture, or weights missing, damaged, or of another architecture.
    """
    check_activation(architecture, read_model_config(architecture), weights)
    return _loaded(lambda: build_coca(architecture), weights)


def load_clip(architecture: str, weights: WeightsConfig) -> CLIP | CustomTextCLIP:
    """Return a CLIP in eval mode, float32, on the CPU; `architecture` as in `filtering.architecture`.

    Raises:
        ConfigError: unknown architecture, or weights missing, damaged, or of another architecture.
    """
    check_activation(architecture, read_model_config(architecture), weights)
    return _loaded(lambda: build_clip(architecture), weights)


def _loaded(build: Callable[[], ModuleT], weights: WeightsConfig) -> ModuleT:
    """Builds a module and loads its weights; `random:<seed>` draws them without changing torch's own generator."""
    seed = random_seed(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if seed is not None else 0)
        module = build()
    if seed is None:
        load_into(module, weights)
    return module.eval()
