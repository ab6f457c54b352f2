"""Maps the grey samples of deep images to 8 bits: by the bits that a picture's values need, or by a window.

Called by `pixels.py`, once for an image. Cameras and scanners store 10 or 12 bits in 16, which would look black. What
was chosen for an image travels as `levels`: the samples that become 0 and 255. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Levels = tuple[float, ...]  # the samples that become 0 and 255; empty where nothing is chosen

AUTO: Final = "auto"
STORED: Final = "stored"
_DEPTHS: Final = (8, 10, 12, 14, 16)
# TIFF's tag SMaxSampleValue. Source: TIFF 6.0, section 19.
_MAX_SAMPLE: Final = 341
# Colour of 16 bits whose high bytes stay below this holds 14 bits or fewer.
_DARK: Final = 64
# This many samples are mapped at once by a window, because float64 takes eight times their memory.
_SAMPLES_AT_ONCE: Final = 2**20

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

    def grey(self, samples: NDArray[np.uint16], tags: Any, transparent: int | None) -> NDArray[np.uint8]:
        """Return unsigned samples (H, W) of 16 bits as 8 bits; `transparent` decides nothing."""
        if not self.levels and self.bits != STORED:
            found = samples if transparent is None else samples[samples != transparent]
            most = int(found.max(initial=0))
            stated = _first_number((tags or {}).get(_MAX_SAMPLE))
            if self.bits == AUTO:
                # A value that some samples exceed states nothing.
                least = max(most, stated) if stated < 2**16 else most
                bits = next(depth for depth in _DEPTHS if least < 2**depth)
            else:
                bits = int(self.bits)
                self.note = NOTE_CLIPPED if most >= 2**bits else None
            self.levels = (0.0, 2.0**bits - 1) if bits < 16 else ()
        high = int(self.levels[1]) if self.levels else 2**16 - 1
        table = (np.arange(2**16, dtype=np.uint32) * 255 + high // 2) // high
        return np.minimum(table, 255).astype(np.uint8)[samples]

    def windowed(self, image: Image.Image, stored: np.dtype[Any] | None) -> NDArray[np.uint8]:
        """Return signed, floating-point or 32-bit grey (H, W) as 8 bits, linearly between the ends of the window.

        What lies outside becomes 0 or 255, also infinity; what is no number becomes 0. `stored` is the type of a TIFF's
        samples: Pillow gives the wrong order of bytes where the big end is first, and signs what has no sign.
        """
        if not self.levels and self.window is not None:
            self.levels = tuple(self.window)
        low, high = self.levels
        samples = np.asarray(image)
        grey = np.empty(samples.shape, np.uint8)
        step = max(1, _SAMPLES_AT_ONCE // max(samples.shape[1], 1))
        for top in range(0, len(samples), step):
            rows = samples[top : top + step]
            if stored is not None:
                native = stored.newbyteorder("=")
                rows = rows.astype(native) if native.itemsize == 2 else rows.view(native)
                rows = rows if stored.isnative else rows.byteswap()
            shares = (np.nan_to_num(rows.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
            grey[top : top + step] = np.rint(np.clip(shares, 0, 1) * 255)
        return grey

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
