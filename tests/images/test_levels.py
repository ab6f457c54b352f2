"""Deep grey becomes 8 bits by the bits that its values need, or by a window; 8 and full 16 bits stay as they were."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import png
import pytest

from pseudoris.images.layouts import LAYOUTS
from pseudoris.images.pixels import NOTE_CLIPPED, NOTE_DARK, decode_proven, decode_upright, decode_with_note
from pseudoris.images.prover import Prover
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config import ImagesConfig
from tests.builders.images import encode, random_pixels, tiff
from tests.builders.layouts import cells

AUTO, STORED = ImagesConfig(bits="auto"), ImagesConfig()
H, W = 5, 7


def grey_of(most: int) -> np.ndarray:
    """Return (5, 7) samples of 16 bits from 0 to `most`, which one of them has."""
    return np.round(np.linspace(0, most, H * W)).astype(np.uint16).reshape(H, W)


def grey_png(samples: np.ndarray, *chunks: bytes, **options) -> bytes:
    """Return a PNG of 16-bit grey, with further chunks before its pixels."""
    file = io.BytesIO()
    png.Writer(samples.shape[1], samples.shape[0], greyscale=True, bitdepth=16, **options).write(file, samples.tolist())
    data = file.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def shown(samples: np.ndarray, bits: int) -> np.ndarray:
    levels = np.minimum(np.round(samples * 255.0 / (2**bits - 1)), 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


WRITERS = {
    "PNG": grey_png,
    "little-endian TIFF": tiff,
    "big-endian TIFF": lambda samples: tiff(samples, byteorder=">", compression="zlib"),
    "JPEG2000": lambda samples: bytes(imagecodecs.jpeg2k_encode(samples, 0, reversible=True)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("most", "bits"),
    [(0, 8), (255, 8), (256, 10), (1_023, 10), (1_024, 12), (4_095, 12), (4_096, 14), (16_384, 16), (65_535, 16)],
)
def test_grey_of_16_bits_takes_the_least_bits_that_hold_its_values(write, most, bits):
    samples = grey_of(most)
    data = write(samples)
    picture = decode_with_note(data, AUTO)
    np.testing.assert_array_equal(picture[:, :], shown(samples, bits))
    assert (picture.note, picture.levels) == (None, () if bits == 16 else (0.0, 2.0**bits - 1))
    np.testing.assert_array_equal(decode_proven(data, picture.levels), picture[:, :])
    # As 0.6.0 did, and without what the prover chose.
    np.testing.assert_array_equal(decode_upright(data, STORED), shown(samples, 16))
    np.testing.assert_array_equal(decode_proven(data), shown(samples, 16))


def test_inverted_grey_is_inverted_after_it():
    data = tiff(grey_of(1_023), photometric="miniswhite")
    np.testing.assert_array_equal(decode_upright(data, AUTO), 255 - shown(grey_of(1_023), 10))


@pytest.mark.parametrize(("stated", "bits"), [(4_095, 12), (3_000, 12), (65_535, 16), (500, 10), (0, 10)])
def test_what_a_tiff_states_as_its_largest_sample_counts_where_the_values_fit_under_it(stated, bits):
    samples = grey_of(1_000)
    data = tiff(samples, extratags=[(341, "H", 1, stated, True)])
    np.testing.assert_array_equal(decode_upright(data, AUTO), shown(samples, bits))


def test_significant_bits_and_the_clear_sample_of_a_png_decide_nothing():
    """By the specification samples with sBIT are scaled to 16 bits already."""
    samples = grey_of(1_000)
    np.testing.assert_array_equal(decode_upright(grey_png(samples, chunk(b"sBIT", b"\x0c")), AUTO), shown(samples, 10))
    samples[0, 0] = 60_000
    clear = shown(samples, 10)
    clear[0, 0] = 255
    np.testing.assert_array_equal(decode_upright(grey_png(samples, transparent=60_000), AUTO), clear)


@pytest.mark.parametrize(("bits", "note"), [(8, NOTE_CLIPPED), (10, None), (11, None), (12, None), (16, None)])
def test_a_number_of_bits_holds_for_every_picture_and_what_exceeds_it_is_white_and_noted(bits, note):
    samples = grey_of(1_000)
    picture = decode_with_note(grey_png(samples), ImagesConfig(bits=bits))
    np.testing.assert_array_equal(picture[:, :], shown(samples, bits))
    assert picture.note == note
    np.testing.assert_array_equal(decode_proven(grey_png(samples), picture.levels), picture[:, :])


@pytest.mark.parametrize(("most", "is_noted"), [(0x3FFF, True), (0x4000, False)])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_with_low_high_bytes_is_noted_and_not_stretched(most, is_noted, channels):
    samples = np.zeros((H, W, channels), np.uint16)
    samples[..., 3:] = 65_535
    samples[0, 0, 1] = most
    data = tiff(samples, photometric="rgb", **({"extrasamples": [2]} if channels == 4 else {}))
    picture = decode_with_note(data, AUTO)
    pixels = picture[:, :]
    assert (picture.note, picture.levels) == (NOTE_DARK if is_noted else None, ())
    np.testing.assert_array_equal(pixels, decode_upright(data, STORED))
    assert pixels[0, 0, 1] == most >> 8
    # The tables of a run that 0.6.0 began have no such note.
    assert decode_with_note(data, STORED).note is None


@pytest.mark.parametrize("layout", sorted(LAYOUTS), ids=str)
def test_pictures_of_8_bits_and_of_full_16_bits_keep_their_pixels_and_have_no_note(layout):
    settings = ImagesConfig(bits="auto", window=(0, 9))
    for data, _ in cells(layout):
        picture = decode_with_note(data, settings)
        np.testing.assert_array_equal(picture[:, :], decode_upright(data, STORED))
        assert (picture.note, picture.levels) == (None, ())


LOW, HIGH = -1_000.0, 400.0
WINDOW = ImagesConfig(bits="auto", window=(LOW, HIGH))


def windowed(samples: np.ndarray) -> np.ndarray:
    """Say in plain words what a window makes of each sample."""
    found = []
    for value in samples.ravel().tolist():
        inside = LOW if np.isnan(value) else min(max(value, LOW), HIGH)
        found.append(round((inside - LOW) / (HIGH - LOW) * 255))
    return np.repeat(np.array(found, np.uint8).reshape(samples.shape)[..., None], 3, axis=2)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("kind", "byteorder"), [(kind, order) for kind in ("i2", "i4", "f4") for order in "<>"] + [("u4", "<")]
)
def test_a_window_maps_samples_whose_range_a_file_does_not_state(kind, byteorder, compression):
    samples = np.linspace(-1_100, 500, H * W).reshape(H, W)
    samples = np.round(np.abs(samples) if kind == "u4" else samples).astype(kind)
    if kind == "f4":
        samples[0, :3] = np.nan, np.inf, -np.inf
    elif kind != "i2":
        samples[0, 0] = np.iinfo(kind).max
    data = tiff(samples, byteorder=byteorder, compression=compression, photometric="minisblack")
    picture = decode_with_note(data, WINDOW)
    np.testing.assert_array_equal(picture[:, :], windowed(samples))
    np.testing.assert_array_equal(decode_proven(data, picture.levels), picture[:, :])
    with pytest.raises(ImageError, match=r"this layout is not read: .*Give images\.window=\[LOW, HIGH\], or save"):
        decode_upright(data, AUTO)
    with Prover(WINDOW) as prover:
        assert prover.prove(data).levels == (LOW, HIGH)


def test_a_large_picture_is_mapped_as_a_small_one():
    samples = np.linspace(-1_100, 500, 300 * 500, dtype=np.float32).reshape(300, 500)
    whole = decode_upright(tiff(samples, photometric="minisblack"), WINDOW)
    for rows in (slice(0, 7), slice(290, 300)):
        part = decode_upright(tiff(samples[rows], photometric="minisblack"), WINDOW)
        np.testing.assert_array_equal(whole[rows], part)


def test_a_window_leaves_unsigned_grey_of_16_bits_to_its_bits():
    np.testing.assert_array_equal(decode_upright(grey_png(grey_of(1_000)), WINDOW), shown(grey_of(1_000), 10))


@pytest.mark.parametrize(("size", "least", "is_left_out"), [((4, 9), 5, True), ((9, 4), 5, True), ((5, 5), 5, False)])
def test_an_image_with_a_side_below_the_least_is_left_out(size, least, is_left_out):
    data, settings = encode(random_pixels(*size)), ImagesConfig(min_side=least)
    if not is_left_out:
        assert decode_upright(data, settings).shape == (*size, 3)
        return
    with pytest.raises(ImageError, match=rf"{size[1]} x {size[0]} pixels: images\.min_side leaves out sides below 5"):
        decode_upright(data, settings)


def test_the_prover_tells_what_it_chose():
    with Prover(AUTO) as prover:
        assert prover.prove(grey_png(grey_of(1_000))).levels == (0.0, 1_023.0)
        assert prover.prove(encode(random_pixels(3, 4))).levels == ()
