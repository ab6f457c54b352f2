"""Computes the perceptual hash of an image for exclusions, with `imagehash`: near copies differ in few of its 64 bits.

Called by the prover's child, so it imports no torch, and by `interchange`. Users keep lists of these hashes, so the
bits must not change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from PIL import Image

from pseudoris.primitives.extras import require_extra

if TYPE_CHECKING:
    import numpy as np

HASH_HEX_DIGITS: Final = 16
HASH_BITS: Final = 64
# Images within 6 bits count as copies: 99.9 % of those encoded again or resized are, 85 % of those cropped by 2 % a
# side. Among 2 million pairs of different scenes, 4 are within 6 bits, 20 within 8. Source: docs/records/exclusions.md.
DEFAULT_MAX_DISTANCE: Final = 6


def require_imagehash() -> None:
    """Import what `perceptual_hash` needs, so that it fails and allocates here; ConfigError if it is missing."""
    require_extra("exclude", "a perceptual hash")
    importlib.import_module("imagehash")
    # imagehash imports this module only at its first hash. Imported here, it fails before any image is read.
    importlib.import_module("scipy.fftpack")


def perceptual_hash(pixels: np.ndarray) -> str:
    """Return `imagehash.phash` of (H, W, 3) uint8 RGB upright pixels with its defaults, 16 lower-case hex digits.

    It is the sign of the 8 × 8 lowest frequencies of the image at 32 × 32 pixels, against their median.
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels)))
