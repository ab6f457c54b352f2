"""Computes the perceptual hash of an image, `imagehash.phash`: near copies differ in few of its 64 bits.

Called by the prover's child, so it imports no torch, and by `interchange`. Users keep lists of these hashes, so the
bits must not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

    from pseudoris.images.pixels import Picture

HASH_HEX_DIGITS: Final = 16
HASH_BITS: Final = 64
# Images within 6 bits count as copies: 99.9 % of those encoded again or resized are, 85 % of those cropped by 2 % a
# side. Among 2 million pairs of different scenes, 4 are within 6 bits, 20 within 8. Source: the record exclusions.md.
DEFAULT_MAX_DISTANCE: Final = 6
_SIDE: Final = 32
_FREQUENCIES: Final = 8
_PIXELS_AT_ONCE: Final = 2**20


def load_transform() -> None:
    """Import what `perceptual_hash` needs now, so that it allocates before any image is read."""
    import scipy.fftpack  # noqa: F401


def perceptual_hash(pixels: np.ndarray | Picture) -> str:
    """Return `imagehash.phash` of (H, W, 3) uint8 RGB upright pixels with its defaults, 16 lower-case hex digits.

    It is the sign of the 8 × 8 lowest frequencies of the image at 32 × 32 pixels, against their median.
    """
    import numpy as np
    from scipy.fftpack import dct

    # Bands are made narrow one by one, as `resize` does first: so no whole grey image is there. With a picture taller
    # than wide some versions of Pillow begin with the height, which changes bits: that one stays as wide as it is.
    height, width = pixels.shape[:2]
    side = width if height > width else _SIDE
    narrow = np.empty((height, side), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, step):
        grey = Image.fromarray(pixels[top : top + step, :]).convert("L")
        narrow[top : top + step] = np.asarray(grey.resize((side, grey.height), Image.Resampling.LANCZOS))
    small = Image.fromarray(narrow).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = dct(dct(np.asarray(small), axis=0), axis=1)[:_FREQUENCIES, :_FREQUENCIES]
    return np.packbits(low > np.median(low)).tobytes().hex()
