"""Makes the files of images and masks that exports write. Called by most modules here.

Every reader must see the annotated pixels: upright, three plain channels. Names come from untrusted keys: they are
unique, and lead nowhere.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from pseudoris.images.pixels import common_suffix, decode_upright
from pseudoris.interchange.exports.record import ExportMask, broken
from pseudoris.primitives.rle import canonical_counts
from pseudoris.schemas.config import ImagesConfig
from pseudoris.store.exclusion_rules import key_path
from pseudoris.store.tables.annotations import AnnotatedImage

# Images that are encoded again get this JPEG quality, which adds less noise than scaling for a network does.
JPEG_QUALITY: Final = 95
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
# A stem has at most this many letters, so that a name with id and suffix stays well below 255 bytes, a common limit.
_MAX_STEM: Final = 80


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as a JPEG or PNG file of an export; encoded anew, its bytes are not those that the run annotated."""

    name: str
    data: bytes
    is_encoded_anew: bool


def image_file_of(image: AnnotatedImage, limits: ImagesConfig) -> ImageFile:
    """Return the file of an image, such that every loader sees the annotated pixels; its bytes are kept if possible.

    Masks and boxes refer to the upright image. OpenCV's `imread` turns a photograph by its EXIF orientation, Pillow's
    `open` does not, so such a file is turned and encoded again, as JPEG. So is what readers differ about otherwise:
    transparency, CMYK, 16 bits a sample, animations, and every format other than JPEG and PNG. Bytes that do not decode
    are an ImageError; those that need a decoder plug-in that is not loaded, a ConfigError.
    """
    if image.data is None:
        raise ValueError(f"image {image.key} came without its bytes")
    suffix = common_suffix(image.data, limits.decoder_plugins)
    if suffix is not None:
        return ImageFile(image_file_name(image, suffix), image.data, is_encoded_anew=False)
    encoded = io.BytesIO()
    pixels = decode_upright(image.data, limits)
    Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return ImageFile(image_file_name(image, ".jpg"), encoded.getvalue(), is_encoded_anew=True)


def image_file_name(image: AnnotatedImage, suffix: str) -> str:
    """Return a file name out of an image's key, which is untrusted, and its id, which makes it unique.

    `a/holiday%20.jpg` becomes `holiday_<id>.jpg`, `x.tar!../../etc/passwd` becomes `passwd_<id>.jpg`. No folder of the
    key is kept: loaders join a folder and a name. The table `images` gives the key of an id.
    """
    name = key_path(image.key).rpartition("/")[2]
    # A row of a table (`photos.parquet#17`) has no file name of its own, so the table's name stays, with its suffix.
    stem = name.replace("#", "_") if "#" in name else re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    safe = _UNSAFE.sub("_", stem)[:_MAX_STEM].strip("._-")
    return f"{safe}_{image.image_id}{suffix}" if safe else f"{image.image_id}{suffix}"


# Readers require a category for each annotation. A run has no classes, so all masks have this category.
CATEGORY_ID: Final = 1
CATEGORY: Final[dict[str, Any]] = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}


def mask_png(mask: ExportMask) -> tuple[bytes, str]:
    """Return a mask as PNG, 8 bits, one channel, 0 or 255, of the upright image's size; and its canonical encoding.

    The PNG is decoded once: a TransientError if it does not hold the mask.
    """
    pixels, encoded = mask.pixels(), io.BytesIO()
    values = pixels * np.uint8(255)
    # The lowest compression level is four times as fast, and masks compress well at any level.
    Image.fromarray(values).save(encoded, "PNG", compress_level=1)
    with Image.open(encoded, formats=("PNG",)) as image:
        if image.mode != "L" or not np.array_equal(np.asarray(image), values):
            raise broken(mask.record.mask_id, "its PNG decodes to another mask")
    return encoded.getvalue(), canonical_counts(pixels)
