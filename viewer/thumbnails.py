"""A thumbnail of an encoded image, encoded anew: it takes nothing but the pixels of an untrusted file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pseudoris.schemas.source_settings import IMAGE_FORMATS

# Twice what a card shows, for dense screens and for the larger view beside the grid.
MAX_SIDE_PX: Final = 800
# Captions speak of small things: below about 80 the ringing of WebP hides them; above 90 the folder doubles.
_QUALITY: Final = 84
_WHITE: Final = (255, 255, 255)


def thumbnail(data: bytes, formats: Sequence[str] = IMAGE_FORMATS) -> bytes | None:
    """Return the upright image as WebP, its longer side at most `MAX_SIDE_PX`; None if it cannot be read.

    The image was decoded when it was annotated, so a failure here means that a plug-in is missing.

    Args:
        data: The encoded image.
        formats: That may be opened, by Pillow's names.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
            image.draft("RGB", (2 * MAX_SIDE_PX, 2 * MAX_SIDE_PX))  # JPEG alone: decodes at a fraction of the size
            upright = _as_rgb(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError):
        return None
    upright.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    upright.save(encoded, "WEBP", quality=_QUALITY, method=4)
    return encoded.getvalue()


def _as_rgb(image: Image.Image) -> Image.Image:
    """The first frame in RGB: transparency on white, 16-bit grey by its high byte."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(layer, mask=layer.getchannel("A"))
    return white
