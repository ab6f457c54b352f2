"""A mask as the PNG that CRIS and ETRIS read, one channel of 0 and 255, and back."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from schemas.errors import TransientError
from store.annotations import AnnotatedMask
from store.rle import summarise_rle
from training.exports.coco_form import rle_of


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
        raise TransientError(f"{name} does not read as PNG ({error}): run the same command again") from error
    if mode != "L" or not np.isin(pixels, (0, 255)).all():
        raise TransientError(f"{name} is no mask of one channel of 0 and 255: run the same command again")
    height, width = pixels.shape
    return (height, width), coco.encode(np.asfortranarray(pixels // 255))["counts"].decode("ascii")
