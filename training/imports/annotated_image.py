"""Checks one image and its human annotation: returns masks and expressions as records, or quarantines the image."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
from pycocotools import mask as coco

from pseudoris.images.pixels import exif_orientation, turn_upright
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.shard import SOURCE_HUMAN, ExpressionRecord, Failure, MaskRecord, ShardImage
from pseudoris.store.tables.rle import RleSummary, summarise_rle
from pseudoris.training.imports.human_annotation import HumanImage, HumanMask, HumanPhrase
from pseudoris.workers.masks.segmentation_forms import MaskSizeError, compressed_counts

STAGE_IMPORT: Final = "import"
# What masks and sizes of an annotation refer to: the upright image, or the image as stored in its file.
Orientation = Literal["upright", "stored"]

_Size = tuple[int, int]
_AS_STORED: Final = 1


def annotate_image(
    image: ShardImage, human: HumanImage, *, orientation: Orientation, limits: ImagesConfig
) -> ShardImage:
    """Return the image with the human's masks and expressions; quarantined if they do not fit the image.

    A mask without a pixel and its expressions are left out, as a proposer leaves them out.

    Args:
        image: As it was read: proven, or quarantined, in which case it stays quarantined.
        human: Its annotation.
        orientation: What the annotation refers to. `stored` masks are turned by the image's EXIF orientation.
        limits: The decoder's plug-ins are read.
    """
    if image.failure or image.height is None or image.width is None:
        return image
    try:
        turn = exif_orientation(image.data, limits.decoder_plugins) if orientation == "stored" else _AS_STORED
        upright = (image.height, image.width)
        size = upright if turn < 5 else (upright[1], upright[0])
        _check_size(human, size, orientation)
        found = [(mask, *_shape(mask, size, turn)) for mask in human.masks]
    except ImageError as error:
        return image.quarantined(Failure(STAGE_IMPORT, error.reason, error.message))
    kept = [(mask, counts, summary) for mask, counts, summary in found if summary.area_px]
    return replace(
        image,
        masks=tuple(_record(image.image_id, upright, *each) for each in kept),
        expressions=(
            *(each for mask, _, _ in kept for each in _expressions(image.image_id, mask)),
            *_of_phrases(image.image_id, human.phrases, {mask.index for mask, _, _ in kept}),
        ),
    )


def _check_size(human: HumanImage, size: _Size, orientation: Orientation) -> None:
    if human.size is None or human.size == size:
        return
    hint = ""
    if human.size == (size[1], size[0]):
        other = "stored" if orientation == "upright" else "upright"
        hint = f"; sides swapped, it may be of the {other} image: --orientation {other}"
    raise ImageError(
        "annotation_mismatch",
        f"the annotation says {human.size[0]} x {human.size[1]} pixels (height x width), the {orientation} image has "
        f"{size[0]} x {size[1]}{hint}",
    )


def _shape(mask: HumanMask, size: _Size, turn: int) -> tuple[str, RleSummary]:
    """Return the upright mask's RLE, and its area and box.

    Raises:
        ImageError: It is of another size than the image, or does not decode.
    """
    where = f"annotation {mask.annotation_id}"
    try:
        counts = compressed_counts(mask.segmentation, size)
        if counts is None:
            return "", RleSummary(0, (0, 0, 0, 0))
        # Untrusted runs: pycocotools could write past its memory.
        summary = summarise_rle(*size, counts)
    except MaskSizeError as error:
        raise ImageError("annotation_mismatch", f"{where}: {error}") from error
    except ValueError as error:
        raise ImageError("annotation_damaged", f"{where}: {error}") from error
    if turn == _AS_STORED or not summary.area_px:
        return counts, summary
    pixels = coco.decode({"size": list(size), "counts": counts.encode("ascii")})
    upright = np.asfortranarray(turn_upright(pixels, turn))
    counts = coco.encode(upright)["counts"].decode("ascii")
    return counts, summarise_rle(upright.shape[0], upright.shape[1], counts)


def _record(image_id: str, size: _Size, mask: HumanMask, counts: str, summary: RleSummary) -> MaskRecord:
    return MaskRecord(
        mask_id=mask_id(image_id, mask.index),
        index=mask.index,
        rle_size=size,
        rle_counts=counts,
        box_xyxy_px=summary.box_xyxy_px,
        area_px=summary.area_px,
        prior=f"{SOURCE_HUMAN}:{mask.annotation_id}",
    )


def _expressions(image_id: str, mask: HumanMask) -> Iterator[ExpressionRecord]:
    target = (mask_id(image_id, mask.index),)
    for text in mask.texts:
        yield ExpressionRecord(target, text, samples=(), kept=True, source=SOURCE_HUMAN, split=mask.splits.get(text))


def _of_phrases(image_id: str, phrases: Sequence[HumanPhrase], kept: Container[int]) -> Iterator[ExpressionRecord]:
    for phrase in phrases:
        targets = tuple(mask_id(image_id, index) for index in phrase.targets if index in kept)
        if targets:
            kind = "group" if len(targets) > 1 else "attribute"
            yield ExpressionRecord(
                targets, phrase.text, samples=(), kind=kind, kept=True, source=SOURCE_HUMAN, split=phrase.split
            )
