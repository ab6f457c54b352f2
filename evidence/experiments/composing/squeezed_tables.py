"""Changes of an annotated image as other models would make them: narrower cosines and scores, masks of parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from pseudoris.primitives import rle
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import MaskRecord, ShardImage

# Every third mask gets one of its part.
_PARTS: Final = 3


def squeezed_cosines(image: ShardImage) -> ShardImage:
    """Return the image with cosines in a fifth of their range, as a CLIP of photographs has them."""
    said = ((each, each.correctness) for each in image.expressions)
    squeezed = (each if cosine is None else replace(each, correctness=0.2 + 0.2 * cosine) for each, cosine in said)
    return replace(image, expressions=tuple(squeezed))


def squeezed_scores(image: ShardImage) -> ShardImage:
    """Return the image with SAM's scores between 0.88 and 1, as the published thresholds leave them."""

    def squeezed(each: MaskRecord) -> MaskRecord:
        iou, stability = each.predicted_iou, each.stability_score
        if iou is None or stability is None:
            return each
        return replace(each, predicted_iou=0.88 + 0.12 * iou, stability_score=0.92 + 0.08 * stability)

    return replace(image, masks=tuple(map(squeezed, image.masks)))


def with_parts(image: ShardImage) -> ShardImage:
    """Return the image with masks of parts: the upper half of every third mask, with the captions of the whole."""
    masks, said = list(image.masks), list(image.expressions)
    for whole in image.masks[::_PARTS]:
        pixels = rle.decode([whole.rle_counts], whole.rle_size)[0]
        pixels[int(np.median(np.flatnonzero(pixels.any(axis=1)))) :] = False
        if not pixels.any():
            continue
        index = 1 + max(each.index for each in masks)
        new = mask_id(image.image_id, index)
        (counts,) = rle.encode(torch.from_numpy(pixels[None]))
        masks.append(replace(whole, mask_id=new, index=index, rle_counts=counts, area_px=int(pixels.sum())))
        captions = (each for each in image.expressions if each.target_mask_ids == (whole.mask_id,))
        said += [replace(each, target_mask_ids=(new,)) for each in captions]
    return replace(image, masks=tuple(masks), expressions=tuple(said))


SQUEEZES: Final[Mapping[str, Callable[[ShardImage], ShardImage]]] = {
    "squeezed cosines": squeezed_cosines,
    "squeezed scores": squeezed_scores,
    "masks of parts": with_parts,
}
