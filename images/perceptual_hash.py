"""The perceptual hash of an image for exclusions, by `imagehash`: near copies differ in few of its 64 bits.

Does not import torch, because the prover's child imports this module. Called by `images` and `interchange`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from PIL import Image

from pseudoris.schemas.extras import require_extra

if TYPE_CHECKING:
    import numpy as np

HASH_HEX_DIGITS: Final = 16
HASH_BITS: Final = 64
# Of the copies that were encoded again or resized 99.9 % are within 6 bits, of those cropped by 2 % a side 85 %. Of 2
# million pairs of different scenes 3 are within 4 bits, 4 within 6, 20 within 8. Source: docs/records/exclusions.md.
DEFAULT_MAX_DISTANCE: Final = 6


def require_imagehash() -> None:
    """Import what `perceptual_hash` needs, so that it neither fails nor allocates later.

    Raises:
        ConfigError: The package is missing.
    """
    require_extra("exclude", "a perceptual hash")
    importlib.import_module("imagehash")
    # imagehash would import it at the first hash, and might fail there.
    importlib.import_module("scipy.fftpack")


def perceptual_hash(pixels: np.ndarray) -> str:
    """Return `imagehash.phash` of an image with its defaults, 16 lower-case hex digits.

    It is the sign of the 8 × 8 lowest frequencies of the image at 32 × 32 pixels, against their median.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright.
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels)))
