"""Measures which colour names the pixels of each mask allow (`primitives.pixel_colours`), for the composer.

`workers/stages.py` adds it to the filter stage where `composing.has_colours` is set.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from pseudoris.primitives.pixel_colours import colour_shares
from pseudoris.schemas.config import ComputeConfig
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.crops.shard_pixels import Decode, prefetched_pixels
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.stages import STAGE_FILTER


def with_colours(compute: ComputeConfig, shard: Shard) -> Shard:
    """Return the shard with `colours` of each mask; see `apply_to_images` for errors."""
    with_masks = [image for image in shard.images if image.masks]
    with prefetched_pixels(with_masks, torch.device("cuda" if compute.device == "cuda" else "cpu")) as decode:
        return apply_to_images(shard, STAGE_FILTER, partial(_measured, decode))


def _measured(decode: Decode, image: ShardImage) -> ShardImage:
    shares = colour_shares(decode(image), [mask.rle_counts for mask in image.masks]) if image.masks else ()
    masks = (replace(mask, colours=each) for mask, each in zip(image.masks, shares, strict=True))
    return replace(image, masks=tuple(masks))
