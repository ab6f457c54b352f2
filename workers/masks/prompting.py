"""On both sides of SAM's mask decoder: images in, encoded crop by crop; logits back at the size of their crop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam

from workers.device import to_device
from workers.masks.grids import resized_size

# What the attention maps of the crops that are encoded at once may take; a crop alone may take more. Part of what
# rounds: it is a constant.
_ENCODER_BYTES = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}


@dataclass(frozen=True)
class EncodedCrop:
    """A crop as SAM's decoder needs it.

    Attributes:
        embedding: (C, h, w) float32.
        size: (H, W) of the crop in pixels.
        input_size: (H, W) that the encoder saw it at, without padding.
    """

    embedding: torch.Tensor
    size: tuple[int, int]
    input_size: tuple[int, int]


def resize_for_sam(pixels: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Return the crop (H, W, 3) uint8 resized bilinearly by Pillow, as SAM's published weights were trained on."""
    height, width = resized_size((pixels.shape[0], pixels.shape[1]), long_side)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def encode_crops(sam: Sam, crops: Sequence[NDArray[np.uint8]], dtype: torch.dtype) -> Iterator[EncodedCrop]:
    """Yield the encodings of crops (H, W, 3) uint8 RGB in order; the image encoder computes in `dtype`.

    Padded to SAM's square they have one shape, so that as many as memory allows are encoded in one pass.
    """
    encoder = sam.image_encoder
    step = _crops_a_pass(sam)
    for at in range(0, len(crops), step):
        several = crops[at : at + step]
        resized = [resize_for_sam(pixels, encoder.img_size) for pixels in several]
        planes = [sam.preprocess(to_device(one, sam.device).permute(2, 0, 1)) for one in resized]
        with torch.autocast(sam.device.type, dtype=dtype, enabled=dtype != torch.float32):
            embeddings = encoder(torch.stack(planes))
        for pixels, one, embedding in zip(several, resized, embeddings.float(), strict=True):
            yield EncodedCrop(embedding, (pixels.shape[0], pixels.shape[1]), (one.shape[0], one.shape[1]))


def _crops_a_pass(sam: Sam) -> int:
    """Return how many crops' attention maps, of a block without windows, stay below the budget; at least 1."""
    height, width = sam.prompt_encoder.image_embedding_size
    num_heads = max(block.attn.num_heads for block in sam.image_encoder.blocks)
    # Scores, then their softmax, in float32 at most.
    held: int = 2 * 4 * num_heads * (height * width) ** 2
    return max(1, _ENCODER_BYTES[sam.device.type] // held)


def to_input_frame(points_xy: NDArray[np.float64], crop: EncodedCrop) -> NDArray[np.float64]:
    """Return points (P, 2) of the unit square in the pixels of the encoder's input."""
    (height, width), (input_height, input_width) = crop.size, crop.input_size
    # In this order, as SAM does: another one rounds differently.
    in_crop = points_xy * np.array([width, height])
    in_input: NDArray[np.float64] = in_crop * np.array([input_width / width, input_height / height])
    return in_input


def upsample(logits: torch.Tensor, crop: EncodedCrop, input_side: int) -> torch.Tensor:
    """Return low-resolution logits (K, h, w) at the crop's original size, (K, H, W) float32.

    Two bilinear steps with the padding cut off between them. Source: segment-anything 1.0, postprocess_masks.
    """
    upsampled = F.interpolate(logits[:, None], (input_side, input_side), mode="bilinear", align_corners=False)
    height, width = crop.input_size
    upsampled = upsampled[..., :height, :width]
    if crop.input_size != crop.size:
        upsampled = F.interpolate(upsampled, crop.size, mode="bilinear", align_corners=False)
    return upsampled[:, 0]
