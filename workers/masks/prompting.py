"""What SAM's modules say to a batch of point prompts: predicted IoU first, logits only for the masks that pass it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import MaskDecoder, Sam

from workers.masks.grids import resized_size

_FOREGROUND = 1
# The first of the decoder's mask tokens answers unambiguous prompts; a single point gets the other three.
_FIRST_MULTIMASK = 1


@dataclass(frozen=True)
class EncodedCrop:
    """A crop as SAM's decoder needs it.

    Attributes:
        embedding: (1, C, h, w) float32.
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


def encode_crop(sam: Sam, pixels: NDArray[np.uint8], dtype: torch.dtype) -> EncodedCrop:
    """Return the encoding of a crop (H, W, 3) uint8 RGB; the image encoder computes in `dtype`."""
    resized = resize_for_sam(pixels, sam.image_encoder.img_size)
    planes = torch.from_numpy(resized).to(sam.device).permute(2, 0, 1)[None]
    with _autocast(sam.device, dtype):
        embedding = sam.image_encoder(sam.preprocess(planes))
    return EncodedCrop(embedding.float(), (pixels.shape[0], pixels.shape[1]), (resized.shape[0], resized.shape[1]))


def to_input_frame(points_xy: NDArray[np.float64], crop: EncodedCrop) -> NDArray[np.float64]:
    """Return points (P, 2) of the unit square in the pixels of the encoder's input."""
    (height, width), (input_height, input_width) = crop.size, crop.input_size
    # In this order, as SAM does: another one rounds differently.
    in_crop = points_xy * np.array([width, height])
    in_input: NDArray[np.float64] = in_crop * np.array([input_width / width, input_height / height])
    return in_input


def predict_masks(
    sam: Sam, crop: EncodedCrop, points_xy: NDArray[np.float64], *, min_predicted_iou: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return low-resolution logits (K, h, w) float32 and predicted IoU (K,) of the masks that pass the threshold.

    Order: by point, then by mask. Equal to `MaskDecoder.forward` followed by the filter, but what the
    filter drops is never upscaled, and a point that loses all three masks costs no upscaling at all.

    Args:
        sam: In eval mode.
        crop: What the points lie in.
        points_xy: (P, 2), one prompt a row, in the frame of the encoder's input.
        min_predicted_iou: Keeps masks strictly above; 0 or less keeps all, as SAM does.
        dtype: Of the transformer; heads and logits stay in float32.
    """
    decoder = sam.mask_decoder
    tokens, image = _run_transformer(sam, crop, points_xy, dtype)
    predicted_iou = decoder.iou_prediction_head(tokens[:, 0])[:, _FIRST_MULTIMASK:]
    is_kept = predicted_iou > min_predicted_iou if min_predicted_iou > 0 else torch.ones_like(predicted_iou).bool()
    is_needed = is_kept.any(dim=1)
    kept_of_needed = is_kept[is_needed]
    if not len(kept_of_needed):
        height, width = (4 * side for side in image.shape[-2:])
        return image.new_zeros((0, height, width)), predicted_iou.new_zeros(0)
    upscaled = decoder.output_upscaling(image[is_needed])
    weights = _mask_weights(decoder, tokens[is_needed, 1:])
    logits = (weights @ upscaled.flatten(2)).unflatten(2, tuple(upscaled.shape[-2:]))
    return logits[kept_of_needed], predicted_iou[is_kept]


def _run_transformer(
    sam: Sam, crop: EncodedCrop, points_xy: NDArray[np.float64], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output tokens (P, 1 + masks + prompt, C), the IoU token first, and image features (P, C, h, w)."""
    decoder = sam.mask_decoder
    # Points stay in float64 until SAM's positional encoding, and that is no place for bfloat16: it turns
    # coordinates into phases of hundreds of radians.
    points = torch.from_numpy(points_xy).to(sam.device)[:, None]
    labels = torch.full((len(points), 1), _FOREGROUND, dtype=torch.int, device=points.device)
    prompt, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(prompt), -1, -1), prompt], dim=1)
    source = crop.embedding + dense
    position = sam.prompt_encoder.get_dense_pe().expand(len(prompt), -1, -1, -1)
    with _autocast(sam.device, dtype):
        tokens_out, image_out = decoder.transformer(source, position, tokens)
    return tokens_out.float(), image_out.float().transpose(1, 2).unflatten(2, tuple(crop.embedding.shape[-2:]))


def _mask_weights(decoder: MaskDecoder, tokens: torch.Tensor) -> torch.Tensor:
    """Return what each mask token makes of the upscaled features, (P, 3, C / 8)."""
    heads = decoder.output_hypernetworks_mlps[_FIRST_MULTIMASK:]
    return torch.stack([head(tokens[:, place]) for place, head in enumerate(heads, start=_FIRST_MULTIMASK)], dim=1)


def upsample(logits: torch.Tensor, crop: EncodedCrop, input_side: int) -> torch.Tensor:
    """Return low-resolution logits (K, h, w) at the crop's original size, (K, H, W) float32.

    Two bilinear steps with the padding cut off between them. Source: segment-anything 1.0, postprocess_masks.
    """
    square = F.interpolate(logits[:, None], (input_side, input_side), mode="bilinear", align_corners=False)
    height, width = crop.input_size
    return F.interpolate(square[..., :height, :width], crop.size, mode="bilinear", align_corners=False)[:, 0]


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
