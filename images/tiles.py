"""Square tiles of large and long pictures: where they lie, how they are named, and what each says of its picture.

    a/b%2Etif@4096,0,5120,1024of8192x6144.png

A name holds the picture's key, with the dots of its last part encoded, then x0, y0, x1, y1 in the upright picture, and
the picture's width and height. The PNG's text chunks hold its sha256 and perceptual hash. `interchange/tile_tars.py`
writes tiles; `store` reads names and marks; `workers` asks what an inner edge cuts. Imports no torch.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from pseudoris.images.integrity import PNG_BEGIN, png_chunk, png_chunks
from pseudoris.images.perceptual_hash import HASH_HEX_DIGITS
from pseudoris.primitives.errors import ImageError
from pseudoris.primitives.run_lengths import Box

# SAM misses objects of pictures that are longer than this many times their width: they are cut, whatever their size.
MOST_RATIO: Final = 2
_NAME: Final = re.compile(r"(.+)@(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})of(\d{1,9})x(\d{1,9})\.png", re.DOTALL)
# Tells tiles apart for readers of WebDataset, which take all before the first dot of a name as the sample's.
_DOT: Final = "%2E"
_SHA256: Final = b"picture_sha256"
_PHASH: Final = b"picture_phash"
_DIGITS: Final = {_SHA256: 64, _PHASH: HASH_HEX_DIGITS}
# A PNG's first chunk, of fixed length, ends here.
_HEAD_BYTES: Final = len(PNG_BEGIN) + 25


@dataclass(frozen=True, slots=True)
class TileForm:
    """How pictures are cut: the longest side of a tile, and by how much neighbours overlap, in pixels."""

    side_px: int
    overlap_px: int

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Return the tiles of a picture of (height, width), row by row, as [x0, y0, x1, y1); none if it fits whole.

        All are squares of the smaller of `side_px` and the picture's shorter side. They overlap by at most three
        quarters of that, the last ones of a row or column by more.
        """
        height, width = size
        if max(size) <= self.side_px and max(size) <= MOST_RATIO * min(size):
            return []
        side = min(self.side_px, *size)
        step = side - min(self.overlap_px, side * 3 // 4)
        lefts, tops = ([*range(0, length - side, step), length - side] for length in (width, height))
        return [(x, y, x + side, y + side) for y in tops for x in lefts]


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of the picture `picture`, a key: its box in that picture, and the picture's (height, width)."""

    picture: str
    box_xyxy_px: Box
    picture_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Its (height, width)."""
        x0, y0, x1, y1 = self.box_xyxy_px
        return y1 - y0, x1 - x0

    @property
    def name(self) -> str:
        """The name of its file."""
        folder, slash, last = self.picture.rpartition("/")
        height, width = self.picture_size
        box = ",".join(map(str, self.box_xyxy_px))
        return f"{folder}{slash}{last.replace('.', _DOT)}@{box}of{width}x{height}.png"

    @classmethod
    def named(cls, key: str) -> Tile | None:
        """Return the tile that an image's key names, in a tar or as a file; None for any other image."""
        found = _NAME.fullmatch(unquote_to_bytes(key.rpartition("!")[2]).decode("utf-8", "replace"))
        if found is None:
            return None
        x0, y0, x1, y1, width, height = map(int, found.groups()[1:])
        is_inside = x0 < x1 <= width and y0 < y1 <= height
        return cls(found[1].replace(_DOT, "."), (x0, y0, x1, y1), (height, width)) if is_inside else None


def is_cut(box_xyxy_px: Box, tile_xyxy_px: Box, picture_size: tuple[int, int], *, margin_px: int = 2) -> bool:
    """Return whether a mask of this box, in its tile, has a pixel within `margin_px` of an inner edge of the tile.

    Inner edges are those that are no edge of the picture.
    """
    height, width = picture_size
    left, top, right, bottom = tile_xyxy_px
    x0, y0, x1, y1 = box_xyxy_px
    return (
        (left > 0 and x0 < margin_px)
        or (top > 0 and y0 < margin_px)
        or (right < width and x1 > right - left - margin_px)
        or (bottom < height and y1 > bottom - top - margin_px)
    )


def png_of(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 RGB pixels as a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def marked(png: bytes, sha256: str, phash: str) -> bytes:
    """Return a tile's PNG with the sha256 of its picture's encoded bytes and the picture's perceptual hash."""
    marks = ((_SHA256, sha256), (_PHASH, phash))
    chunks = [png_chunk(b"tEXt", name + b"\0" + value.encode("ascii")) for name, value in marks]
    return b"".join((png[:_HEAD_BYTES], *chunks, png[_HEAD_BYTES:]))


def marks_of(png: bytes) -> tuple[str | None, str | None]:
    """Return sha256 and perceptual hash of a tile's picture, as `marked` writes them; None for what is not there."""
    found = dict[bytes, str]()
    if png.startswith(PNG_BEGIN):
        try:
            for kind, chunk in takewhile(lambda each: each[0] != b"IDAT", png_chunks(png)):
                name, _, value = bytes(chunk[8:-4]).partition(b"\0") if kind == b"tEXt" else (b"", b"", b"")
                if name in _DIGITS and re.fullmatch(rb"[0-9a-f]{%d}" % _DIGITS[name], value):
                    found[name] = value.decode("ascii")
        except ImageError:
            return None, None
    return found.get(_SHA256), found.get(_PHASH)
