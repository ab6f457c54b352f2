"""SAM built and loaded, and its frames: point grids, overlapping crops, and the way from a crop to its input and back.

The modules are `segment_anything`'s, from an architecture given as numbers.
Source: segment-anything 1.0, utils/amg.py, utils/transforms.py and modeling/sam.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pseudoris.schemas.config import MasksConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import Box
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture, sam_architecture
from pseudoris.workers.checkpoints.tensor_files import loaded
from pseudoris.workers.device import to_device

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
    """Return a Sam in eval mode, float32, on the CPU, of the architecture that a config names."""
    numbers = sam_architecture(architecture)
    return loaded(lambda: build_sam(numbers), weights)


PointGrid = NDArray[np.float64]

# Bytes of the attention maps of the crops that are encoded at once; a single crop may take more. Not a setting, because
# it decides the last bits of the results.
_ENCODER_BYTES = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}


def layer_grids(config: MasksConfig) -> tuple[PointGrid, ...]:
    """Return one point grid for the whole image and one for each layer of crops, in the frame of a crop."""
    factor = config.crop_n_points_downscale_factor
    sides = [int(config.points_per_side / factor**layer) for layer in range(config.crop_n_layers + 1)]
    if 0 in sides:
        raise ConfigError(
            f"masks.crop_n_points_downscale_factor={factor} leaves crop layer {sides.index(0)} without points "
            f"(masks.points_per_side={config.points_per_side}): lower the factor or masks.crop_n_layers"
        )
    grids = []
    for points_per_side in sides:
        # The centres of a square grid's cells, (points², 2) float64 as x, y in (0, 1), row by row.
        half = 1 / (2 * points_per_side)
        side = np.linspace(half, 1 - half, points_per_side)
        grids.append(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    return tuple(grids)


def crop_boxes(size: tuple[int, int], config: MasksConfig) -> list[tuple[Box, int]]:
    """Return the crops of an image (H, W) with their layers: the whole image, then layer by layer, column by column.

    Layer l has (2^l)² crops. In an image of a few pixels some crops have no pixels; they are left out.

    Returns:
        Pairs of a box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, and its layer.
    """
    height, width = size
    crops: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, config.crop_n_layers + 1):
        num_crops = 2**layer
        overlap = int(config.crop_overlap_ratio * min(height, width) * (2 / num_crops))
        spans = []
        for length in (width, height):
            span = math.ceil((overlap * (num_crops - 1) + length) / num_crops)
            starts = [(span - overlap) * number for number in range(num_crops)]
            spans.append([(start, min(start + span, length)) for start in starts if start < length])
        crops.extend(((x0, y0, x1, y1), layer) for (x0, x1), (y0, y1) in product(*spans))
    return crops


def resized_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Return the (H, W) of an image resized to a long side of `long_side`, each side at least one pixel.

    At an aspect ratio above 2 · `long_side` SAM rounds the short side to 0 and fails; here it is 1.
    """
    height, width = size
    scale = long_side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True)
class EncodedCrop:
    """A crop as input of the mask decoder.

    Attributes:
        embedding: (C, h, w) float32.
        size: (H, W) of the crop in pixels.
        input_size: (H, W) of the encoder's input, without padding.
    """

    embedding: torch.Tensor
    size: tuple[int, int]
    input_size: tuple[int, int]


def encode_crops(sam: Sam, crops: Sequence[NDArray[np.uint8]], dtype: torch.dtype) -> Iterator[EncodedCrop]:
    """Yield the encodings of crops (H, W, 3) uint8 RGB in order; the image encoder computes in `dtype`.

    Padded to SAM's square, crops have one shape; as many as memory allows are encoded in one pass.
    """
    encoder = sam.image_encoder
    # For so many crops the attention maps of a block without windows, scores and softmax in at most float32, stay below
    # the budget.
    height, width = sam.prompt_encoder.image_embedding_size
    num_heads = max(block.attn.num_heads for block in encoder.blocks)
    step = max(1, _ENCODER_BYTES[sam.device.type] // (2 * 4 * num_heads * (height * width) ** 2))
    for first in range(0, len(crops), step):
        several = crops[first : first + step]
        # Bilinearly by Pillow, as in the training of SAM's published weights.
        sizes = [resized_size((pixels.shape[0], pixels.shape[1]), encoder.img_size) for pixels in several]
        resized = [
            np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            for pixels, (height, width) in zip(several, sizes, strict=True)
        ]
        planes = [sam.preprocess(to_device(one, sam.device).permute(2, 0, 1)) for one in resized]
        # SAM makes an index of relative positions in every block; on its device, it is not copied there.
        with sam.device, torch.autocast(sam.device.type, dtype=dtype, enabled=dtype != torch.float32):
            embeddings = encoder(torch.stack(planes))
        for pixels, one, embedding in zip(several, resized, embeddings.float(), strict=True):
            yield EncodedCrop(embedding, (pixels.shape[0], pixels.shape[1]), (one.shape[0], one.shape[1]))


def to_input_frame(points_xy: NDArray[np.float64], crop: EncodedCrop) -> NDArray[np.float64]:
    """Return points (P, 2) of the unit square in pixels of the encoder's input."""
    (height, width), (input_height, input_width) = crop.size, crop.input_size
    # In SAM's order of operations: another order rounds differently.
    in_crop = points_xy * np.array([width, height])
    in_input: NDArray[np.float64] = in_crop * np.array([input_width / width, input_height / height])
    return in_input


def upsample(logits: torch.Tensor, crop: EncodedCrop, input_side: int) -> torch.Tensor:
    """Return low-resolution logits (K, h, w) at the crop's original size, (K, H, W) float32.

    Resizes bilinearly twice, and cuts off the padding between the two steps. Source: segment-anything 1.0,
    postprocess_masks.
    """
    upsampled = F.interpolate(logits[:, None], (input_side, input_side), mode="bilinear", align_corners=False)
    height, width = crop.input_size
    upsampled = upsampled[..., :height, :width]
    if crop.input_size != crop.size:
        upsampled = F.interpolate(upsampled, crop.size, mode="bilinear", align_corners=False)
    return upsampled[:, 0]
