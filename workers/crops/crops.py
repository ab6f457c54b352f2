"""Crops of masks for models (method page, section 2): one masked, one per scale. For engines, `training`, `evidence`.

A crop is cut, filled outside its mask, padded to a square, resized in float32, then normalised; tests hold `make_crops`
against that definition. A crop must depend only on the image, its mask and its box; `crop_resampling` computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

from pseudoris.primitives.run_lengths import decode_runs
from pseudoris.schemas.shard import Box, MaskRecord
from pseudoris.workers.crops.crop_resampling import CropAccumulator, CropTile, TiledImage, tile_batches
from pseudoris.workers.device import to_device

# The colour of masked-out pixels and of padding: CLIP's mean, 255 * (0.48145466, 0.4578275, 0.40821073), rounded.
# Source: open_clip 3.3.0, OPENAI_DATASET_MEAN; raw colours, as method page section 2 asks.
FILL_RGB: Final = (123, 117, 104)
# A batch takes at most this many bytes, enough for a photograph with a few masks. Smaller batches are slower.
BATCH_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class CropFormat:
    """The input of a model's image tower."""

    size: int  # side of the square input in pixels
    mean: tuple[float, float, float]  # per RGB channel, subtracted from colours in [0, 1]
    std: tuple[float, float, float]  # per RGB channel, divided by afterwards
    # Whether a smaller output pixel averages all pixels that it covers. Without it, it is interpolated between
    # the nearest pixels, as torchvision 0.12 resizes tensors.
    has_antialiasing: bool = True


def make_crops(
    pixels: NDArray[np.uint8],
    boxes: Sequence[Box],
    *,
    runs: Sequence[NDArray[np.int64]],
    scales: Sequence[float | None],
    crop_format: CropFormat,
    device: torch.device,
    max_bytes: int = BATCH_BYTES,
) -> torch.Tensor:
    """Return all crops of one image as (K, N, 3, size, size) float32, RGB, normalised, on `device`.

    All are cut from one copy of the image, in batches of about `max_bytes`. The batches do not change any bit.

    Args:
        pixels: (H, W, 3) uint8 RGB, the upright image.
        boxes: The N masks' tight boxes (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        runs: For each mask the lengths of its runs, column by column, background first. Read only for masked crops.
        scales: The K crop kinds: a factor of at least 1 for a box's width and height, or None for masked crops.
        crop_format: The image tower's size, mean and std.
        device: Where to compute.
        max_bytes: Without the image and the crops.

    Raises:
        ValueError: The numbers of masks and boxes differ, or a mask has another size than the image.
    """
    height, width = pixels.shape[:2]
    if len(runs) != len(boxes):
        raise ValueError(f"got {len(runs)} masks and {len(boxes)} boxes; each mask needs one box")
    for number, mask in enumerate(runs):
        if (found := int(mask.sum())) != height * width:
            raise ValueError(f"mask {number} has {found:,} pixels, the image {height * width:,}")
    grown, whole = partial(grow_box, image_size=(height, width)), (0, crop_format.size)
    # Tiles are ordered mask by mask, because the crop kinds of a mask read the same pixels.
    tiles = [
        CropTile(kind * len(boxes) + mask, mask, scale is None, grown(box, scale=scale or 1.0), whole, whole)
        for mask, box in enumerate(boxes)
        for kind, scale in enumerate(scales)
    ]
    image = TiledImage(pixels, runs, fill_rgb=FILL_RGB, device=device)
    sums = CropAccumulator(len(tiles), crop_format.size, device, has_antialiasing=crop_format.has_antialiasing)
    for batch in tile_batches(tiles, size=crop_format.size, max_bytes=max_bytes):
        sums.add(image, batch)
    fill, mean, std = (to_device(torch.tensor(rgb), device) for rgb in (FILL_RGB, crop_format.mean, crop_format.std))
    crops = sums.scaled(1 / (255 * std), (fill / 255 - mean) / std)
    return crops.view(len(scales), len(boxes), *crops.shape[1:])


def mask_crops(
    pixels: NDArray[np.uint8],
    masks: Sequence[MaskRecord],
    scales: Sequence[float | None],
    crop_format: CropFormat,
    device: torch.device,
) -> torch.Tensor:
    """Return the crops (K, N, 3, size, size) of an image's masks, as `make_crops` has them."""
    boxes, runs = [mask.box_xyxy_px for mask in masks], [decode_runs(mask.rle_counts) for mask in masks]
    return make_crops(pixels, boxes, runs=runs, scales=scales, crop_format=crop_format, device=device)


def grow_box(box: tuple[int, int, int, int], *, scale: float, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box scaled about its centre and clipped to the image: all pixels that the scaled box touches.

    The first edge is rounded down, the second up, in exact arithmetic on the decimal digits of `scale`: with floats,
    100 * 1.1 = 110.00000000000001 would touch one more pixel. A box without width or height, or outside the image,
    becomes one pixel wide or high, at the nearest pixel inside.

    Args:
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        scale: Factor on width and height, at least 1.
        image_size: (height, width) in pixels.
    """
    numerator, denominator = Fraction(str(scale)).as_integer_ratio()
    grown = []
    for start, end, limit in ((box[0], box[2], image_size[1]), (box[1], box[3], image_size[0])):
        # The new start is (start + end) / 2 - scale * (end - start) / 2, here in integers over a common denominator.
        twice_centre, span = (start + end) * denominator, (end - start) * numerator
        low = (twice_centre - span) // (2 * denominator)
        high = -((-twice_centre - span) // (2 * denominator))
        low = min(max(low, 0), limit - 1)
        grown.append((low, min(max(high, low + 1), limit)))
    (x0, x1), (y0, y1) = grown
    return x0, y0, x1, y1


# A mask's outline has this colour, and as its width this share of the image's longer side.
_OUTLINE_RGB: Final = (255, 0, 0)
_OUTLINE: Final = 1 / 200


def outlined(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) RGB with a red line around a mask (H, W), outside of it where there is room."""
    width = max(1, round(max(mask.shape) * _OUTLINE))
    grown = binary_dilation(mask, iterations=width)
    # A mask of the whole image has no outside, so its outline lies inside.
    line = (grown & ~mask) if not grown.all() else mask & ~binary_erosion(mask, iterations=width)
    return np.where(line[..., None], np.array(_OUTLINE_RGB, dtype=np.uint8), pixels)
