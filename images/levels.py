"""Maps the grey samples of deep images to 8 bits: by the bits that a picture's values need, or by a window.

Called by `pixels.py`, once for an image. Cameras and scanners store 10 or 12 bits in 16, which would look black. What
was chosen for an image travels as `levels`: the samples that become 0 and 255. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from pseudoris.primitives.run_lengths import Box

Levels = tuple[float, ...]  # the samples that become 0 and 255; empty where nothing is chosen

AUTO: Final = "auto"
STORED: Final = "stored"
_DEPTHS: Final = (8, 10, 12, 14, 16)
# TIFF's tag SMaxSampleValue. Source: TIFF 6.0, section 19.
_MAX_SAMPLE: Final = 341
_TIFF_WHITE_IS_ZERO: Final = 0
_BIG_END: Final = b"MM"
# Colour of 16 bits whose high bytes stay below this holds 14 bits or fewer.
_DARK: Final = 64

NOTE_DARK: Final = "16-bit colour whose high bytes are all below 64: it holds fewer bits, and is dark"
NOTE_CLIPPED: Final = "grey samples above images.bits were made white"


@dataclass(slots=True)
class DeepSamples:
    """How the deep samples of one image become 8 bits, by `images.bits` and `images.window`, or by known `levels`.

    Attributes:
        levels: What was chosen; empty before, for an image without deep grey, and where all 16 bits are used.
        note: What the images table says of it; None for nothing.
    """

    bits: str | int = STORED
    window: tuple[float, float] | None = None
    levels: Levels = ()
    note: str | None = None

    @property
    def has_window(self) -> bool:
        """Whether samples without a range of their own can be mapped."""
        return self.window is not None or bool(self.levels)

    def grey(self, image: Image.Image) -> Callable[[Box], NDArray[np.uint8]]:
        """Choose levels for a loaded image of unsigned grey of 16 bits; a transparent value decides nothing.

        What is returned makes 8 bits (h, w, 1) of a box of it, white where it is transparent.
        """
        tags, clear = getattr(image, "tag_v2", None) or {}, image.info.get("transparency")
        clear = clear if isinstance(clear, int) else -1  # no sample's value
        if not self.levels and self.bits != STORED:
            boxes = ((0, top, image.width, min(top + 64, image.height)) for top in range(0, image.height, 64))
            bands = (np.asarray(image.crop(box)) for box in boxes)
            most = max(int(band.max(initial=0, where=band != clear)) for band in bands)
            stated = _first_number(tags.get(_MAX_SAMPLE))
            if self.bits == AUTO:
                # A value that some samples exceed states nothing.
                least = max(most, stated) if stated < 2**16 else most
                bits = next(depth for depth in _DEPTHS if least < 2**depth)
            else:
                bits = int(self.bits)
                self.note = NOTE_CLIPPED if most >= 2**bits else None
            self.levels = (0.0, 2.0**bits - 1) if bits < 16 else ()
        high = int(self.levels[1]) if self.levels else 2**16 - 1
        # If 0 is white in a TIFF, Pillow inverts 8-bit images only, so 16-bit images are inverted here.
        is_inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _TIFF_WHITE_IS_ZERO

        def part(box: Box) -> NDArray[np.uint8]:
            samples = np.asarray(image.crop(box))
            grey = np.minimum((samples.astype(np.uint32) * 255 + high // 2) // high, 255).astype(np.uint8)
            grey = 255 - grey if is_inverted else grey
            grey[samples == clear] = 255
            return grey[:, :, None]

        return part

    def windowed(self, image: Image.Image, kind: str | None) -> Callable[[Box], NDArray[np.uint8]]:
        """Return what makes 8 bits (h, w, 1) of a box of a loaded image of signed, floating-point or 32-bit grey.

        It maps linearly between the ends of the window; what lies outside becomes 0 or 255, no number 0. `kind` is that
        of a TIFF's samples: Pillow swaps bytes where the big end is first, and signs what has no sign.
        """
        tags: Any = getattr(image, "tag_v2", None)
        stored = None if kind is None else np.dtype((">" if tags.prefix == _BIG_END else "<") + kind)
        self.levels = low, high = self.levels or self.window or ()

        def part(box: Box) -> NDArray[np.uint8]:
            samples = np.asarray(image.crop(box))
            if stored is not None:
                native = stored.newbyteorder("=")
                samples = samples.astype(native) if native.itemsize == 2 else samples.view(native)
                samples = samples if stored.isnative else samples.byteswap()
            shares = (np.nan_to_num(samples.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
            return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)[:, :, None]

        return part

    def look_at_colour(self, image: Image.Image) -> None:
        """Note a picture of 16-bit colour, loaded as its high bytes, that holds fewer bits; it is not stretched."""
        if self.bits == STORED:
            return
        bands = [image.getchannel(name).getextrema() for name in image.getbands() if name not in ("A", "a", "X")]
        if max(int(high) for _, high in bands) < _DARK:  # type: ignore[arg-type]  # of a band of 8 bits
            self.note = NOTE_DARK


def _first_number(value: Any) -> int:
    """Return what a tag states, for the first sample; 0 for nothing that is a whole number."""
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, int | float) and math.isfinite(first) and first >= 0 else 0
