"""Instances of one image as a prior sees them, and the proposals that stand for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from schemas.errors import ConfigError, ImageError
from workers.masks import rle
from workers.masks.proposals import Proposals
from workers.masks.reduction import Kept


@dataclass(frozen=True)
class Instances:
    """The instances of one image.

    Attributes:
        counts: COCO compressed RLE strings, of the image's size; an empty instance is allowed and matches nothing.
        rows: What to call each in a mask's `prior`: its row in the table, its number among the detections.
    """

    counts: tuple[str, ...]
    rows: tuple[int, ...]


def match_instances(
    proposals: Proposals, instances: Instances, *, name: str, match: Literal["intersection", "iou"]
) -> list[Kept]:
    """Return the proposal that fits each instance best, in the generator's order, each once.

    Among equals the first proposal wins. An instance that touches no proposal is dropped; where several pick
    the same one, the first of them is named as its prior.

    Args:
        proposals: All of the image's, unreduced.
        instances: Of the same image.
        name: Of the prior, for `Kept.prior`.
        match: `intersection` takes the proposal that covers most of the instance (the paper), `iou` the best fit.
    """
    if not len(proposals) or not instances.counts:
        return []
    measure = rle.shares_inside if match == "intersection" else rle.ious
    overlaps = measure(instances.counts, proposals.counts, proposals.size)
    best = overlaps.argmax(axis=1)
    chosen: dict[int, int] = {}
    for instance in np.flatnonzero(overlaps.max(axis=1) > 0):
        chosen.setdefault(int(best[instance]), instances.rows[instance])
    return [Kept(row, f"{name}:{chosen[row]}") for row in sorted(chosen)]


def encode_box(box_xyxy_px: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """Return the RLE of the pixels of an image (H, W) whose centres lie in the box; clipped, empty if none does."""
    height, width = size
    x0, y0, x1, y1 = (int(np.ceil(edge - 0.5)) for edge in np.clip(box_xyxy_px, 0, [width, height, width, height]))
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return rle.encode(mask)[0]


def encode_instance(segmentation: Mapping[str, Any] | None, box: Any, size: tuple[int, int], *, where: str) -> str:
    """Return the checked RLE of a foreign instance of an image (H, W): of its segmentation, else of its box.

    Args:
        segmentation: `size` and `counts` (compressed RLE), or None.
        box: x0, y0, x1, y1, x1 and y1 exclusive, or None.
        size: Of the upright image.
        where: File and row, for messages.

    Raises:
        ConfigError: There is neither, or the codes are damaged.
        ImageError: The segmentation is of another size.
    """
    if segmentation is not None and not isinstance(segmentation, Mapping):
        raise ConfigError(f"{where}: segmentation is a {type(segmentation).__name__}, size and counts are needed")
    if segmentation is None or segmentation.get("counts") is None:
        if (
            not isinstance(box, list | tuple)
            or len(box) != 4
            or not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in box)
        ):
            raise ConfigError(f"{where} has neither a segmentation nor a box of four numbers, got {box!r}")
        return encode_box((box[0], box[1], box[2], box[3]), size)
    check_size(segmentation.get("size"), size, where=where)
    counts = segmentation["counts"]
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    if not isinstance(text, str) or not rle.is_valid(text, size):
        raise ConfigError(f"{where}: counts is no COCO compressed RLE of {size[0]} x {size[1]} pixels")
    return text


def check_size(claimed: Any, size: tuple[int, int], *, where: str) -> None:
    """Accept a mask whose table says that it is of the upright image's size (H, W); to be asked before it is drawn.

    Raises:
        ImageError: It is of another.
    """
    if not isinstance(claimed, list | tuple) or list(claimed) != list(size):
        raise ImageError(
            "prior_mismatch",
            f"{where} is a mask of size {claimed}, the upright image has {list(size)}: "
            "make the table from images turned upright by their EXIF orientation, at full size",
        )
