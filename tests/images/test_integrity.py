"""An image whose bytes are lost is corrupt: no pixel is made up in silence. A JPEG may lack its end marker alone."""

from __future__ import annotations

import io
import time
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pseudoris.images.integrity import has_end_marker
from pseudoris.images.pixels import (
    NOTE_NO_END_MARKER,
    common_suffix,
    decode_proven,
    decode_upright,
    decode_with_note,
    is_plain_jpeg,
)
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config import ImagesConfig
from tests.builders.images import encode, jpeg, oriented, png, random_pixels, smooth_pixels, tiff

LIMITS = ImagesConfig()
PIXELS = random_pixels(64, 64)
GREY = PIXELS[..., 0].copy()


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
    whole = tiff(PIXELS, photometric="rgb", compression=compression, tile=tile)
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


JPEG_STRIP = bytes(imagecodecs.jpeg8_encode(GREY, 98))
STRIPS = {
    "raw": (GREY.tobytes(), 1, 1),
    "raw of less": (GREY.tobytes(), 1, 0.9),
    "Deflate": (zlib.compress(GREY.tobytes()), 8, 1),
    "Deflate without its checksum": (zlib.compress(GREY.tobytes()), 8, 0.9995),
    "Deflate by its old number": (zlib.compress(GREY.tobytes()), 32946, 1),
    "that without its checksum": (zlib.compress(GREY.tobytes()), 32946, 0.9995),
    "JPEG": (JPEG_STRIP, 7, 1),
    "half a JPEG": (JPEG_STRIP, 7, 0.5),
    "a JPEG without its end marker": (JPEG_STRIP, 7, 0.9999),
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


SMOOTH, NOISE = Image.fromarray(smooth_pixels(33, 47)), Image.fromarray(random_pixels(33, 47))
FILES = {
    "colour": encode(SMOOTH, "JPEG", quality=90),
    "noise": encode(NOISE, "JPEG", quality=95),
    "flat": encode(Image.new("RGB", (33, 47), (9, 99, 200)), "JPEG"),
    "grey": encode(NOISE.convert("L"), "JPEG"),
    "inks": encode(NOISE.convert("CMYK"), "JPEG"),
    "optimised": encode(SMOOTH, "JPEG", optimize=True),
    "full colour": encode(NOISE, "JPEG", subsampling=0),
    "restarts": encode(NOISE, "JPEG", restart_marker_blocks=1),
    "restarts of rows": encode(SMOOTH, "JPEG", restart_marker_rows=1),
    "progressive restarts": encode(NOISE, "JPEG", progressive=True, restart_marker_blocks=1),
    "progressive": encode(SMOOTH, "JPEG", progressive=True),
    "progressive noise": encode(NOISE, "JPEG", progressive=True, quality=95),
    "progressive grey": encode(SMOOTH.convert("L"), "JPEG", progressive=True),
    "progressive flat": encode(Image.new("RGB", (64, 64), (128, 128, 128)), "JPEG", progressive=True, subsampling=0),
    "turned": oriented(smooth_pixels(16, 24), 6, "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
def test_without_its_end_marker_every_pixel_is_the_same_and_noted(name):
    whole = FILES[name]
    assert decode_with_note(whole, LIMITS).note is None
    for cut in (whole[:-2], whole[:-1], whole[:-2] + bytes(300)):
        picture = decode_with_note(cut, LIMITS)
        pixels = picture[:, :]
        assert picture.note == NOTE_NO_END_MARKER
        np.testing.assert_array_equal(pixels, decode_upright(whole, LIMITS))
        np.testing.assert_array_equal(pixels, decode_proven(cut))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_no_cut_that_changes_a_pixel_is_read(name):
    whole = FILES[name]
    expected, num_read = decode_upright(whole, LIMITS), 0
    for length in range(max(len(whole) - 600, whole.index(b"\xff\xda")), len(whole) - 1):
        for filler in (b"", bytes(700)):
            try:
                pixels = decode_upright(whole[:length] + filler, LIMITS)
            except ImageError:
                continue
            np.testing.assert_array_equal(pixels, expected)
            num_read += 1
    assert num_read >= 2


@pytest.mark.parametrize("name", [*list(FILES)[:5], "full colour", "restarts", "restarts of rows"])
def test_half_a_jpeg_with_an_end_marker_is_not_read(name):
    whole = FILES[name]
    start = (whole.index(b"\xff\xda") + len(whole)) // 2
    with pytest.raises(ImageError, match="is cut short"):
        decode_upright(whole[:start] + b"\xff\xd9", LIMITS)


def test_fill_bytes_before_the_end_marker_of_a_grey_corner_are_no_loss():
    whole = encode(Image.new("RGB", (20, 20), (128, 128, 128)), "JPEG")
    np.testing.assert_array_equal(decode_upright(whole[:-2] + b"\xff\xff\xd9", LIMITS), decode_upright(whole, LIMITS))


def test_a_zero_may_be_the_last_byte_of_the_data():
    whole = encode(Image.new("RGB", (64, 64), (128, 128, 128)), "JPEG")
    assert whole.endswith(b"\0\xff\xd9")
    picture = decode_with_note(whole[:-2], LIMITS)
    pixels = picture[:, :]
    assert picture.note == NOTE_NO_END_MARKER
    np.testing.assert_array_equal(pixels, decode_upright(whole, LIMITS))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("behind", [b"\n", b"\r\n", b"appended by a server " * 40], ids=["LF", "CR LF", "text"])
def test_no_cut_with_other_bytes_behind_it_changes_a_pixel_in_silence(name, behind):
    whole = FILES[name]
    expected = decode_upright(whole, LIMITS)
    for num_cut in (0, 1, 2, 3, 4, 5, 6, 9, 20):
        try:
            pixels = decode_upright(whole[: len(whole) - num_cut] + behind, LIMITS)
        except ImageError:
            assert num_cut > 0
        else:
            np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(decode_upright(whole[:-2] + b"\n", LIMITS), expected)


HEADER = jpeg()[: jpeg().index(b"\xff\xdb")]
FLOODS = {
    "fill bytes": HEADER + b"\xff" * 30_000_000,
    "zeros": HEADER + bytes(30_000_000),
    "segments": HEADER + b"\xff\xe1\0\x02" * 7_000_000,
    "restart markers": HEADER + b"\xff\xd0" * 15_000_000,
    "fill bytes behind the pixels": jpeg()[:-30] + b"\xff" * 30_000_000,
    "segments behind the pixels": jpeg()[:-2] + b"\xff\xe1\0\x02" * 7_000_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_markers_is_corrupt_in_time(name):
    start = time.process_time()
    with pytest.raises(ImageError, match=r"\w") as caught:
        decode_upright(FLOODS[name], LIMITS)
    assert caught.value.reason == "corrupt"
    assert time.process_time() - start < 5


def test_a_jpeg_without_its_end_marker_or_that_its_exif_turns_is_exported_anew():
    whole, turned = jpeg(), FILES["turned"]
    assert (common_suffix(turned), is_plain_jpeg(turned, LIMITS)) == (None, False)
    assert has_end_marker(whole + b"behind the image")
    assert (common_suffix(whole), is_plain_jpeg(whole, LIMITS)) == (".jpg", True)
    assert (common_suffix(whole[:-2]), is_plain_jpeg(whole[:-2], LIMITS)) == (None, False)
    assert not has_end_marker(whole[:-2])
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(whole[:-2])).load()
