"""The crops of one image's masks, as method page section 2 defines them: one masked crop, context crops by scale.

Each is cut, filled outside its mask, padded to a square, resized in float32, normalised last. What a crop holds
depends on the image, its mask and its box alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.shard import Box
from workers.images.cuts import Cut, batches
from workers.images.cutting import CropSums
from workers.images.strips import ImageStrips

# The fill of masked-out pixels and of padding: CLIP's mean, 255 * (0.48145466, 0.4578275, 0.40821073), rounded.
# Source: open_clip 3.3.0, OPENAI_DATASET_MEAN; raw colours, as method page section 2 asks.
FILL_RGB: Final = (123, 117, 104)
# What a batch of crops takes at once: all crops of a photograph's few masks fit; smaller costs time, and no bit.
BATCH_BYTES: Final = 64 * 2**20


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

    All are cut from one copy of the image, in batches; how they are batched changes no bit of them.

    Args:
        pixels: (H, W, 3) uint8 RGB, the upright image.
        boxes: The N masks' tight boxes (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        runs: Of each mask, the lengths of its runs column by column, background first; read for masked crops alone.
        scales: The K crop kinds: a factor of at least 1 on a box's width and height, or None for masked crops.
        crop_format: The tower's size, mean and std.
        device: Where to compute.
        max_bytes: About how much a batch takes, beside the image and the crops.

    Raises:
        ValueError: Another number of masks than of boxes, or a mask of another size than the image.
    """
    height, width = pixels.shape[:2]
    _check_runs(runs, len(boxes), height * width)
    cuts = _cuts(boxes, scales, image_size=(height, width), size=crop_format.size)
    image = ImageStrips(pixels, runs, fill_rgb=FILL_RGB, device=device)
    sums = CropSums(len(cuts), crop_format.size, device)
    for batch in batches(cuts, size=crop_format.size, max_bytes=max_bytes):
        sums.add(image, batch)
    fill, mean, std = (torch.tensor(rgb, device=device) for rgb in (FILL_RGB, crop_format.mean, crop_format.std))
    crops = sums.scaled(1 / (255 * std), (fill / 255 - mean) / std)
    return crops.view(len(scales), len(boxes), *crops.shape[1:])


def _check_runs(runs: Sequence[NDArray[np.int64]], num_boxes: int, num_pixels: int) -> None:
    if len(runs) != num_boxes:
        raise ValueError(f"got {len(runs)} masks and {num_boxes} boxes; each mask has one box")
    for number, mask in enumerate(runs):
        if (found := int(mask.sum())) != num_pixels:
            raise ValueError(f"mask {number} has {found:,} pixels, the image {num_pixels:,}")


def _cuts(boxes: Sequence[Box], scales: Sequence[float | None], *, image_size: tuple[int, int], size: int) -> list[Cut]:
    """Return one cut a crop, mask after mask: the kinds of a mask read the same pixels."""
    whole = (0, size)
    return [
        Cut(
            crop=kind * len(boxes) + mask,
            mask=mask,
            is_masked=scale is None,
            box=grow_box(box, scale=scale or 1.0, image_size=image_size),
            rows=whole,
            columns=whole,
        )
        for mask, box in enumerate(boxes)
        for kind, scale in enumerate(scales)
    ]


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
