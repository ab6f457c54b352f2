"""A JPEG that lacks its end marker alone is read; one that lacks a pixel is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pseudoris.images.jpeg_segments import has_end_marker
from pseudoris.images.pixels import (
    NOTE_NO_END_MARKER,
    common_suffix,
    decode_proven,
    decode_upright,
    decode_with_note,
    is_plain_jpeg,
)
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ImageError
from tests.builders.images import encode, jpeg, oriented, random_pixels, smooth_pixels

LIMITS = ImagesConfig()
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
    "turned": oriented(smooth_pixels(16, 24), 6, "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
def test_without_its_end_marker_every_pixel_is_the_same_and_noted(name):
    whole = FILES[name]
    assert decode_with_note(whole, LIMITS)[1] is None
    for cut in (whole[:-2], whole[:-1], whole[:-2] + bytes(300)):
        pixels, note = decode_with_note(cut, LIMITS)
        assert note == NOTE_NO_END_MARKER
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


@pytest.mark.parametrize("name", ["colour", "noise", "flat", "grey", "full colour", "restarts", "restarts of rows"])
def test_half_a_jpeg_with_an_end_marker_is_not_read(name):
    whole = FILES[name]
    start = (whole.index(b"\xff\xda") + len(whole)) // 2
    with pytest.raises(ImageError, match="is cut short"):
        decode_upright(whole[:start] + b"\xff\xd9", LIMITS)


def test_a_grey_corner_is_no_loss():
    data = encode(Image.new("RGB", (20, 20), (128, 128, 128)), "JPEG")
    np.testing.assert_array_equal(decode_upright(data, LIMITS), np.full((20, 20, 3), 128))


def test_a_long_run_of_fill_bytes_is_searched_in_time():
    with pytest.raises(ImageError, match="is cut short"):
        decode_upright(jpeg()[:-2][:200] + b"\xff" * 2**22, LIMITS)


def test_a_jpeg_without_its_end_marker_is_exported_anew():
    whole = jpeg()
    assert has_end_marker(whole + b"behind the image")
    assert (common_suffix(whole), is_plain_jpeg(whole, LIMITS)) == (".jpg", True)
    assert (common_suffix(whole[:-2]), is_plain_jpeg(whole[:-2], LIMITS)) == (None, False)
    assert not has_end_marker(whole[:-2])
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(whole[:-2])).load()
