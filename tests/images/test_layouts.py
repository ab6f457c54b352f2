"""Each layout of the declared list is read as other programs read it; any other is quarantined under its name."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
from itertools import groupby
from pathlib import Path

import imagecodecs
import numpy as np
import png
import pytest
from PIL import Image

from pseudoris.images.layouts import APART, LAYOUTS, OPAQUE, PREMULTIPLIED, STRAIGHT, TOGETHER, Layout, check_layout
from pseudoris.images.pixels import decode_proven, decode_upright
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config import ImagesConfig
from tests.builders.images import encode, tiff
from tests.builders.layouts import HEIGHT, WIDTH, bmp, cells, noise, ramps

LIMITS = ImagesConfig()


def imagemagick() -> str | None:
    """Return the program that says of itself that it is ImageMagick: others are named `convert` too."""
    for path in filter(None, map(shutil.which, ("magick", "convert"))):
        asked = subprocess.run([path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if asked.stdout.startswith(b"Version: ImageMagick"):
            return path
    return None


CONVERT = imagemagick()

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "layouts.md"
SHOWN = ("-colorspace", "sRGB", "-background", "white", "-flatten", "-depth", "8", "rgb:-")


def tolerance(layout: Layout) -> float:
    """Return by how much a pixel may differ: by rounding, more of lossy AVIF and of deep alpha, which is cut first."""
    if layout.format == "AVIF":
        return 4
    return 3 if layout.alpha in (STRAIGHT, PREMULTIPLIED) and layout.bits > 8 else 1


@pytest.mark.parametrize("layout", sorted(LAYOUTS), ids=str)
def test_a_layout_of_the_list_is_read_as_it_was_written(layout):
    files = list(cells(layout))
    assert files
    for data, shown in files:
        with Image.open(io.BytesIO(data)) as image:
            assert check_layout(data, image) == layout
        decoded = decode_upright(data, LIMITS)
        assert np.abs(decoded - shown).max() <= tolerance(layout)
        np.testing.assert_array_equal(decode_proven(data), decoded)


def test_the_page_of_layouts_has_them_all():
    lines = ["| format | samples | bits | order | transparency |", "| --- | --- | --- | --- | --- |"]
    ordered = sorted(LAYOUTS, key=lambda each: (each.format, each.samples, each.order, each.alpha, each.bits))
    for (name, samples, order, alpha), group in groupby(ordered, lambda each: (*each[:2], *each[3:])):
        lines.append(f"| {name} | {samples} | {', '.join(str(each.bits) for each in group)} | {order} | {alpha} |")
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8")


def is_read_otherwise_by_imagemagick(layout: Layout) -> bool:
    """Return whether ImageMagick 6 departs.

    It takes an extra sample for alpha, and does not invert grey of 2 and 4 bits. Its libheif loses alpha of AVIF.
    """
    is_extra = (
        layout.format == "AVIF" or "unnamed" in layout.alpha or layout == ("BMP", "rgb", 32, "uncompressed", "no alpha")
    )
    return is_extra or (layout.samples == "inverted grey" and layout.bits in (2, 4))


@pytest.mark.slow
@pytest.mark.skipif(
    CONVERT is None and "CI" not in os.environ,
    reason="no `magick` or `convert` here is ImageMagick: apt-get install imagemagick",
)
@pytest.mark.parametrize(
    "layout", [layout for layout in sorted(LAYOUTS) if not is_read_otherwise_by_imagemagick(layout)], ids=str
)
def test_imagemagick_shows_the_same(layout):
    data, _ = next(cells(layout))
    kind = "j2k" if data.startswith(b"\xff\x4f") else "jp2" if layout.format == "JPEG2000" else layout.format.lower()
    command = [CONVERT, f"{kind}:-[0]", *SHOWN]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    decoded = decode_upright(data, LIMITS)
    shown = np.frombuffer(done.stdout, np.uint8).reshape(decoded.shape).astype(int)
    assert np.abs(decoded - shown).max() <= tolerance(layout) + 2


def with_tag(data: bytes, number: int, value: int, *, instead_of: int, number_before: int | None = None) -> bytes:
    """Return a little-endian TIFF in which an entry of one short number has another value, or another number too."""
    before = struct.pack("<HHIH", number_before or number, 3, 1, instead_of)
    assert data.count(before) == 1
    return data.replace(before, struct.pack("<HHIH", number, 3, 1, value))


def clear_colour_of_16_bits() -> bytes:
    file = io.BytesIO()
    samples = noise(16, 3)
    writer = png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=16, transparent=tuple(map(int, samples[0, 0])))
    writer.write(file, samples.reshape(HEIGHT, -1).tolist())
    return file.getvalue()


def cmyk_without_adobe() -> bytes:
    data = bytes(imagecodecs.jpeg8_encode(ramps(8, 4), 95, colorspace="CMYK", outcolorspace="CMYK"))
    return re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", data, flags=re.DOTALL)


GREY, RGB = noise(8, 1), noise(8, 3)
PLANES = np.moveaxis(noise(8, 4), 2, 0).copy()
EXTRA = {"photometric": "rgb", "extrasamples": [2]}
# What stands outside the list, and what the message says of it.
OTHERS = {
    "TIFF, 32-bit floating-point rgb": lambda: tiff(RGB.astype(np.float32), photometric="rgb"),
    "TIFF, 32-bit floating-point grey": lambda: tiff(GREY.astype(np.float32)),
    "TIFF, 32-bit grey": lambda: tiff(GREY.astype(np.uint32)),
    "TIFF, 8-bit signed grey": lambda: tiff(GREY.astype(np.int8)),
    "TIFF, 16-bit signed grey": lambda: tiff(GREY.astype(np.int16)),
    "TIFF, 12-bit grey": lambda: tiff(noise(12, 1), bitspersample=12),
    "TIFF, 16-bit inverted grey, interleaved, big-endian": (
        lambda: tiff(noise(16, 1), photometric="miniswhite", byteorder=">")
    ),
    "TIFF, 16-bit grey, interleaved, straight alpha": lambda: tiff(
        noise(16, 2), planarconfig="contig", extrasamples=[2]
    ),
    "TIFF, 8-bit grey, separate planes, straight alpha": (
        lambda: tiff(
            PLANES[:2], planarconfig="separate", photometric="minisblack", extrasamples=[2], compression="zlib"
        )
    ),
    "TIFF, 8-bit rgb, separate planes, premultiplied alpha": (
        lambda: tiff(PLANES, planarconfig="separate", photometric="rgb", extrasamples=[1])
    ),
    "TIFF, 8-bit rgb, interleaved, 4 samples, 0 of them extra": (
        lambda: with_tag(tiff(noise(8, 4), **EXTRA), 337, 0, instead_of=2, number_before=338)
    ),
    "TIFF, 1-bit .*compression 4": lambda: encode(
        Image.fromarray(GREY[..., 0]).convert("1"), "TIFF", compression="group4"
    ),
    "TIFF, 8-bit photometric 8": lambda: with_tag(tiff(RGB, photometric="rgb"), 262, 8, instead_of=2),
    "TIFF, 8-bit photometric None": lambda: with_tag(tiff(GREY), 263, 1, instead_of=1, number_before=262),
    "TIFF, 8-bit palette, interleaved, a colour map of 8 bits": (
        lambda: tiff(GREY, photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) % 256)
    ),
    "TIFF, 8-bit grey, interleaved, bits reversed": (
        lambda: with_tag(tiff(GREY), 266, 2, instead_of=1, number_before=296)
    ),
    "PNG, 16-bit rgb, interleaved, one clear colour": clear_colour_of_16_bits,
    "JPEG, 12-bit grey": lambda: bytes(imagecodecs.jpeg8_encode(noise(12, 1), 95, bitspersample=12)),
    "JPEG, 8-bit colour, process 3": lambda: bytes(imagecodecs.jpeg8_encode(RGB, lossless=True)),
    "JPEG, 8-bit cmyk without Adobe's marker": cmyk_without_adobe,
    "JPEG2000, 16-bit rgb": lambda: bytes(imagecodecs.jpeg2k_encode(noise(16, 3), 0, reversible=True)),
    "JPEG2000, 4-bit rgb": lambda: bytes(imagecodecs.jpeg2k_encode(noise(4, 3), 0, reversible=True, bitspersample=4)),
    "JPEG2000, 8-bit signed or mixed grey": lambda: bytes(imagecodecs.jpeg2k_encode(GREY.astype(np.int8), 0)),
    "JPEG2000, 8-bit rgb, interleaved, an extra component of another kind": (
        lambda: bytes(imagecodecs.jpeg2k_encode(noise(8, 4), 0))
    ),
    "BMP, 8-bit palette of few greys": lambda: bmp(8, 0, bytes(40 * HEIGHT), b"\0\0\0\0\xff\xff\xff\0", num_colours=2),
    "BMP, 2-bit palette": lambda: bmp(2, 0, bytes(12 * HEIGHT), bytes(16)),
    "BMP, 24-bit rgb, compression 5": lambda: bmp(24, 5, encode(RGB), b""),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_layout_is_refused_by_its_name(name):
    with pytest.raises(ImageError, match=f"this layout is not read: {name}") as caught:
        decode_upright(OTHERS[name](), LIMITS)
    assert caught.value.reason == "unsupported_pixels"


ORIENTED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("order", [TOGETHER, APART])
def test_a_tiff_is_turned_upright_in_whatever_way_it_is_stored(order, orientation):
    layout = Layout("TIFF", "rgb", 16, order, OPAQUE)
    for data, shown in cells(layout, orientation=orientation):
        assert np.abs(decode_upright(data, LIMITS) - ORIENTED[orientation](shown)).max() <= tolerance(layout)
