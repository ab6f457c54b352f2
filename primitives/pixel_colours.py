"""Tells which of the eleven basic colour names (Berlin and Kay, 1969) the pixels of masks may be called by.

`workers/filtering` measures the shares, `workers/composing` reads them. Names are wide, because light and shade change
pixels but not what people say: a white wall in the shade is grey, a black dog in the sun too. A pixel has all names
that a viewer may give to a thing of its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.primitives import rle

NAMES: Final = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
# By name the ranges of CIELAB that may be called so: lightness, chroma and hue in degrees. Set by hand.
_RANGES: Final = {
    "black": ((0, 42), (0, 18), (0, 360)),
    "white": ((55, 100), (0, 22), (0, 360)),
    "grey": ((12, 88), (0, 16), (0, 360)),
    "red": ((8, 75), (16, 200), (-20, 52)),
    "orange": ((30, 90), (25, 200), (35, 85)),
    "yellow": ((35, 100), (18, 200), (68, 115)),
    "green": ((5, 95), (8, 200), (98, 205)),
    "blue": ((3, 95), (7, 200), (170, 315)),
    "purple": ((5, 95), (7, 200), (280, 352)),
    "pink": ((40, 100), (9, 200), (-50, 45)),
    "brown": ((6, 68), (7, 65), (25, 95)),
}
# Colours are rounded to so many bits a channel, so that names are looked up.
_BITS: Final = 5
# A picture is grey or sepia if so many pixels have the same hue and chroma, but for so much of CIELAB. It says nothing.
_ALIKE, _SAME_TONE = 0.99, 8.0


@cache
def _named() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the names of each rounded colour, (32768, 11), and its a and b of CIELAB, (32768, 2)."""
    levels = (np.arange(2**_BITS) + 0.5) / 2**_BITS
    red, green, blue = np.meshgrid(levels, levels, levels, indexing="ij")
    rgb = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Source: IEC 61966-2-1, sRGB to XYZ over the white point D65; CIE 15, XYZ to CIELAB.
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = linear @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29).T
    lightness, tone = 116 * y - 16, np.stack([500 * (x - y), 200 * (y - z)], axis=-1)
    chroma, hue = np.hypot(*tone.T), np.degrees(np.arctan2(tone[:, 1], tone[:, 0]))
    names = []
    for light, chromatic, (first, last) in (_RANGES[name] for name in NAMES):
        is_hue = (hue - first) % 360 <= last - first
        names.append(_is_within(lightness, light) & _is_within(chroma, chromatic) & is_hue)
    return np.stack(names, axis=-1), tone


def _is_within(values: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((values >= bounds[0]) & (values <= bounds[1]))


def colour_shares(pixels: NDArray[np.uint8], masks: Sequence[str]) -> list[tuple[float, ...]]:
    """Return the shares of the pixels of each mask that may have each of `NAMES`, to 3 decimals; () in a grey picture.

    `pixels` are (H, W, 3) uint8 sRGB, `masks` run-length codes of that size.
    """
    names, tone = _named()
    parts = (pixels >> (8 - _BITS)).astype(np.int32)
    codes = (parts[..., 0] << 2 * _BITS) | (parts[..., 1] << _BITS) | parts[..., 2]
    counts = np.bincount(codes.reshape(-1), minlength=len(names))
    centre = [_median(tone[:, axis], counts) for axis in range(2)]
    if counts[np.abs(tone - centre).max(axis=1) <= _SAME_TONE].sum() >= _ALIKE * counts.sum():
        return [() for _ in masks]
    found = []
    for mask in masks:
        inside = rle.decode([mask], pixels.shape[:2])[0]
        of_mask = np.bincount(codes[inside], minlength=len(names))
        found.append(tuple(np.round(of_mask @ names / max(of_mask.sum(), 1), 3).tolist()))
    return found


def _median(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)])
