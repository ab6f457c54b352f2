"""The crops of one image's masks, as method page section 2 defines them: one masked crop, context crops by scale.

Each is cut, filled outside its mask, padded to a square, resized in float32, normalised last. What a crop holds
depends on the image, its mask and its box alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from typing import Final

import numpy as np
import torch

from workers.images.resampling import resize_padded

# The fill of masked-out pixels and of padding: CLIP's mean, 255 * (0.48145466, 0.4578275, 0.40821073), rounded.
# Source: open_clip 3.3.0, OPENAI_DATASET_MEAN; raw colours, as method page section 2 asks.
FILL_RGB: Final = (123, 117, 104)


@dataclass(frozen=True, slots=True)
class CropFormat:
    """What a model's image tower takes.

    Attributes:
        size: Side of the square input in pixels.
        mean: Per RGB channel, subtracted from colours in [0, 1].
        std: Per RGB channel, divided by afterwards.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def make_crops(
    pixels: np.ndarray,
    masks: Iterable[np.ndarray] | None,
    *,
    boxes_xyxy_px: np.ndarray,
    scale: float | None,
    crop_format: CropFormat,
) -> torch.Tensor:
    """Return one crop a box as (N, 3, size, size) float32, RGB, normalised, on the CPU.

    Args:
        pixels: (H, W, 3) uint8 RGB, the upright image.
        masks: N times (H, W) bool, taken one after another; masked crops alone need them, else they may be None.
        boxes_xyxy_px: (N, 4) integers, x1 and y1 exclusive: the masks' tight boxes.
        scale: Factor on the box's width and height of a context crop; None makes masked crops.
        crop_format: The tower's size, mean and std.

    Raises:
        ValueError: Masked crops without masks, or masks that do not fit the boxes or the image.
    """
    if scale is None and masks is None:
        raise ValueError("masked crops need masks, got None; pass them, or a scale for context crops")
    boxes = boxes_xyxy_px.tolist()
    crops = torch.empty(len(boxes), 3, crop_format.size, crop_format.size)
    masks_or_none = repeat(None, len(boxes)) if scale is not None or masks is None else masks
    for index, (box, mask) in enumerate(zip(boxes, masks_or_none, strict=True)):
        crops[index] = make_crop(pixels, box, scale=scale or 1.0, mask=mask, crop_format=crop_format)
    return crops


def make_crop(
    pixels: np.ndarray,
    box: tuple[int, int, int, int],
    *,
    scale: float,
    mask: np.ndarray | None,
    crop_format: CropFormat,
) -> torch.Tensor:
    """Return one crop as (3, size, size) float32, RGB, normalised.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        box: Tight box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        scale: Factor on the box's width and height, at least 1.
        mask: (H, W) bool; pixels outside it become `FILL_RGB`. None masks nothing.
        crop_format: The tower's size, mean and std.

    Raises:
        ValueError: The mask is of another size than the image.
    """
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise ValueError(f"a mask has shape {mask.shape}; the image asks for {pixels.shape[:2]}")
    x0, y0, x1, y1 = grow_box(box, scale=scale, image_size=(pixels.shape[0], pixels.shape[1]))
    kept = None if mask is None else mask[y0:y1, x0:x1]
    colours = resize_padded(pixels[y0:y1, x0:x1], crop_format.size, fill_rgb=FILL_RGB, mask=kept)
    mean = torch.tensor(crop_format.mean).view(3, 1, 1)
    std = torch.tensor(crop_format.std).view(3, 1, 1)
    return colours.sub_(mean).div_(std)


def grow_box(box: tuple[int, int, int, int], *, scale: float, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box grown about its centre and clipped to the image: every pixel that the grown box touches.

    The first edge is rounded down, the second up, in exact arithmetic on `scale` as it is written: with
    floats, 100 * 1.1 = 110.00000000000001 would touch a pixel more. A box without width or height, or beside
    the image, becomes one pixel wide or high at the nearest place inside.

    Args:
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        scale: Factor on width and height, at least 1.
        image_size: (height, width) in pixels.
    """
    factor = Fraction(str(scale))
    height, width = image_size
    x0, x1 = _grow_interval(box[0], box[2], factor, width)
    y0, y1 = _grow_interval(box[1], box[3], factor, height)
    return x0, y0, x1, y1


def _grow_interval(start: int, end: int, factor: Fraction, limit: int) -> tuple[int, int]:
    # start' = (start + end) / 2 - factor * (end - start) / 2, over the common denominator.
    numerator, denominator = factor.as_integer_ratio()
    twice_centre, span = (start + end) * denominator, (end - start) * numerator
    low = (twice_centre - span) // (2 * denominator)
    high = -((-twice_centre - span) // (2 * denominator))
    low = min(max(low, 0), limit - 1)
    return low, min(max(high, low + 1), limit)
