"""A mask as COCO's JSON holds it (run-length encoding, box, category), and as PNG of 0 and 255, and back."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from pseudoris.schemas.errors import TransientError
from pseudoris.store.tables.annotations import AnnotatedMask
from pseudoris.store.tables.rle import summarise_rle

# A run has no classes, but readers require every annotation to have one from `categories`.
CATEGORY_ID: Final = 1
CATEGORY: Final[dict[str, Any]] = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}


def rle_of(mask: AnnotatedMask) -> dict[str, Any]:
    """Return the compressed encoding as JSON holds it, {"size": [height, width], "counts": str}."""
    return {"size": [int(side) for side in mask.rle_size], "counts": mask.rle_counts}


def box_xywh(mask: AnnotatedMask) -> list[int]:
    """Return the tight box [x, y, width, height] in upright pixels, plain ints."""
    x0, y0, x1, y1 = (int(edge) for edge in mask.box_xyxy_px)
    return [x0, y0, x1 - x0, y1 - y0]


def mask_png(mask: AnnotatedMask) -> tuple[bytes, str]:
    """Return a mask as PNG, 8 bits, one channel, 0 or 255, of the upright image's size; and its canonical encoding.

    The encoding is the one that pycocotools gives for the pixels, as `counts_of_png` returns it: a run whose masks
    were imported may hold another one of the same pixels.

    Raises:
        ValueError: The mask's encoding is not of its size.
    """
    height, width = mask.rle_size
    summarise_rle(height, width, mask.rle_counts)  # pycocotools would read past its buffers
    pixels = coco.decode(rle_of(mask))
    encoded = io.BytesIO()
    # What a mask is made of packs well at any level: the lowest is four times as fast.
    Image.fromarray(pixels * np.uint8(255)).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), coco.encode(pixels)["counts"].decode("ascii")


def counts_of_png(data: bytes, name: str) -> tuple[tuple[int, int], str]:
    """Return (height, width) and canonical encoding of such a PNG.

    Raises:
        TransientError: It has more than one channel of 8 bits, or other values than 0 and 255; the text holds `name`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels, mode = np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise TransientError(f"{name} is not a readable PNG ({error}). Run the same command again.") from error
    if mode != "L" or not np.isin(pixels, (0, 255)).all():
        raise TransientError(f"{name} is not a one-channel mask of 0 and 255. Run the same command again.")
    height, width = pixels.shape
    return (height, width), coco.encode(np.asfortranarray(pixels // 255))["counts"].decode("ascii")
