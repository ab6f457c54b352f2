"""A PNG or a TIFF whose bytes are lost is corrupt: no pixel is made up in silence."""

from __future__ import annotations

import io
import time
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ImageError
from tests.builders.images import encode, png, random_pixels

LIMITS = ImagesConfig()
PIXELS = random_pixels(64, 64)
GREY = PIXELS[..., 0].copy()


def tiff(samples: np.ndarray = PIXELS, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def refuses(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode_upright(data, LIMITS)
    assert caught.value.reason == "corrupt"


def without_tail(data: bytes, share: float) -> bytes:
    """Return a file whose last bytes are zeros."""
    return data[: int(len(data) * share)] + bytes(len(data) - int(len(data) * share))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 0.999])
def test_a_png_that_ends_in_zeros_is_corrupt(share):
    refuses(without_tail(png(64, 64), share), "does not match its checksum")


def test_a_png_needs_the_checksum_of_each_critical_chunk_and_its_end():
    whole = png()
    at = whole.index(b"IDAT")
    end = at + 4 + int.from_bytes(whole[at - 4 : at], "big")
    refuses(whole[:end] + b"\0\0\0\0" + whole[end + 4 :], "does not match its checksum")
    for length in range(end + 4, len(whole)):
        refuses(whole[:length], "lacks its end chunk")
    # A chunk that no pixel depends on.
    note = b"\0\0\0\1" + b"prVt" + b"x" + b"\0\0\0\0"
    at = len(whole) - 12
    np.testing.assert_array_equal(
        decode_upright(whole[:at] + note + whole[at:], LIMITS), decode_upright(whole + b"behind", LIMITS)
    )


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
def test_a_flood_of_png_chunks_is_corrupt_in_time(place):
    whole, chunk = png(), b"\0\0\0\0prVt\0\0\0\0"
    at = whole.index(place) - 4
    start = time.process_time()
    refuses(whole[:at] + chunk * 5_000_000 + whole[at:], "more than 400,000 chunks")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_a_tiff_with_zeros_in_place_of_compressed_strips_is_corrupt(compression, tile, share):
    whole = tiff(photometric="rgb", compression=compression, tile=tile)
    assert decode_upright(whole, LIMITS).shape == PIXELS.shape
    refuses(without_tail(whole, share), "a strip or tile is not whole|stopped before the end")


def with_strip(strip: bytes, compression: int) -> bytes:
    """Return a grey TIFF of one strip."""
    with tifffile.TiffFile(io.BytesIO(tiff(GREY, rowsperstrip=64))) as file:
        tags = file.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("Compression", "StripByteCounts", "StripOffsets")}
    data = bytearray(tiff(GREY, rowsperstrip=64))
    for name, value, size in (
        ("Compression", compression, 2),
        ("StripByteCounts", len(strip), 4),
        ("StripOffsets", len(data), 4),
    ):
        data[places[name] : places[name] + size] = value.to_bytes(size, "little")
    return bytes(data) + strip + bytes(8192)


JPEG = bytes(imagecodecs.jpeg8_encode(GREY, 98))
STRIPS = {
    "raw": (GREY.tobytes(), 1, 1),
    "raw of less": (GREY.tobytes(), 1, 0.9),
    "Deflate": (zlib.compress(GREY.tobytes()), 8, 1),
    "Deflate without its checksum": (zlib.compress(GREY.tobytes()), 8, 0.9995),
    "Deflate by its old number": (zlib.compress(GREY.tobytes()), 32946, 1),
    "that without its checksum": (zlib.compress(GREY.tobytes()), 32946, 0.9995),
    "JPEG": (JPEG, 7, 1),
    "half a JPEG": (JPEG, 7, 0.5),
    "a JPEG without its end marker": (JPEG, 7, 0.9999),
}


@pytest.mark.parametrize("name", STRIPS)
def test_a_strip_of_a_tiff_must_be_whole(name):
    strip, compression, share = STRIPS[name]
    data = with_strip(strip[: int(len(strip) * share)], compression)
    if share == 1:
        assert np.abs(decode_upright(data, LIMITS)[..., 0].astype(int) - GREY).max() <= (8 if compression == 7 else 0)
    else:
        refuses(data, "a strip or tile is not whole")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_that_is_cut_anywhere_is_corrupt(compression):
    whole = encode(random_pixels(9, 11), "TIFF", compression=compression)
    for length in range(8, len(whole)):
        refuses(whole[:length], r"\w")
    directory = int.from_bytes(whole[4:8], "little")
    refuses(whole[:directory] + bytes(len(whole) - directory), r"\w")
