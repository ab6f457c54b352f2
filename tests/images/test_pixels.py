"""Every hard input is decoded as a person would expect it, or refused with its reason."""

from __future__ import annotations

import io
import resource
import struct
import sys
import zlib
from functools import cache
from unittest.mock import Mock

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from pseudoris.images.pixels import (
    decode_proven,
    decode_upright,
    exif_orientation,
    import_plugins,
    loaded_plugins,
    registered_formats,
    turn_upright,
)
from pseudoris.images.prover import Prover
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.untrusted import HEIF_PLUGIN, IMAGE_FORMATS
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.tables import FAILURE_REASONS
from tests.builders import images as build
from tests.builders.hostile_plugin import hostile
from tests.builders.memory import traced_peak

LIMITS = ImagesConfig()


def refusal(data: bytes, limits: ImagesConfig = LIMITS) -> ImageError:
    with pytest.raises(ImageError, match=r"\w") as caught:
        decode_upright(data, limits)
    assert caught.value.reason in FAILURE_REASONS
    return caught.value


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_truncated_image_is_corrupt_and_never_half_an_image(image_format):
    whole = build.encode(build.random_pixels(64, 64), image_format)
    error = refusal(whole[: len(whole) * 2 // 3])
    assert error.reason == "corrupt"


@pytest.mark.parametrize(
    "data", [b"these are my notes\n" * 9, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 99]
)
def test_what_is_no_image_is_refused_without_an_address(data):
    first, second = refusal(data), refusal(data)
    assert first.reason == "not_an_image"
    assert first.message == second.message
    assert "0x" not in first.message


def test_a_pixel_bomb_is_refused_from_its_header():
    error = refusal(build.png_of_header_only(30_000, 30_000))
    assert error.reason == "too_many_pixels"
    assert "900,000,000" in error.message


@pytest.mark.slow
def test_the_pixel_limit_is_inclusive_and_replaces_the_one_of_pillow():
    data = build.png(10, 20)
    assert decode_upright(data, ImagesConfig(max_pixels=200)).shape == (10, 20, 3)
    assert refusal(data, ImagesConfig(max_pixels=199)).reason == "too_many_pixels"
    assert exif_orientation(build.png_of_header_only(30_000, 30_000)) == 1


def with_size_at(data: bytes, mark: bytes, offset: int, size: bytes) -> bytes:
    """Return an image whose header says another size, `offset` bytes behind the beginning of a mark in it."""
    start = data.index(mark) + offset
    return data[:start] + size + data[start + len(size) :]


@cache
def gibibyte() -> bytes:
    return zlib.compress(b"\0" * 2**28, 9)


MEBIBYTE = zlib.compress(b"\0" * (2**20 - 10), 9)
# An entry of EXIF of four billion numbers, by the ten thousand.
EXIF = b"MM\0*\0\0\0\x08" + b"\xff\xff" + b"\x01\x12\x00\x03\xff\xff\xff\xff\0\0\0\0" * 10_000
GIF = build.encode(Image.new("P", (8, 8)), "GIF")
BOMBS = {
    "text": (lambda: build.png_with((b"zTXt", b"c\0\0" + gibibyte())), "corrupt"),
    "international text": (lambda: build.png_with((b"iTXt", b"c\0\1\0\0\0" + gibibyte())), "corrupt"),
    "many texts": (lambda: build.png_with(*[(b"zTXt", b"c%d\0\0" % n + MEBIBYTE) for n in range(100)]), "corrupt"),
    "colour profile": (lambda: build.png_with((b"iCCP", b"p\0\0" + gibibyte())), "corrupt"),
    "EXIF": (lambda: build.png_with((b"eXIf", EXIF)), None),
    "frames": (lambda: build.png_with((b"acTL", struct.pack(">II", 2**31 - 1, 0))), None),
    "pixels beyond the size": (lambda: build.png_with(data=gibibyte()), None),
    "a GIF's screen": (
        lambda: with_size_at(build.encode(Image.new("P", (8, 8)), "GIF"), b"GIF8", 6, b"\xff" * 4),
        "too_many_pixels",
    ),
    "a GIF's first frame": (lambda: with_size_at(GIF, b",\0\0\0\0", 5, b"\xff" * 4), "too_many_pixels"),
    "a JPEG 2000's box": (
        lambda: with_size_at(
            build.encode(build.random_pixels(), "JPEG2000"), b"ihdr", 4, struct.pack(">II", 10**5, 10**5)
        ),
        "too_many_pixels",
    ),
    "a JPEG 2000's stream": (
        lambda: with_size_at(
            build.encode(build.random_pixels(), "JPEG2000"), b"\xff\x51", 6, struct.pack(">II", 10**5, 10**5)
        ),
        "corrupt",
    ),
    "a drawing": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "not_an_image",
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger than file", "ignore:Invalid APNG")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little_memory_whatever_it_claims(name):
    build_bomb, reason = BOMBS[name]
    data = build_bomb()
    assert len(data) < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with traced_peak() as peak_bytes:
        if reason is None:
            assert decode_upright(data, LIMITS).shape == (8, 8, 3)
        else:
            assert refusal(data).reason == reason
        assert peak_bytes() < 2**27
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18
    )  # in KiB: no decoder took what was claimed


def test_too_many_bytes_are_refused():
    data = build.png()
    assert decode_upright(data, ImagesConfig(max_bytes=len(data))).shape == (24, 32, 3)
    assert refusal(data, ImagesConfig(max_bytes=len(data) - 1)).reason == "too_many_bytes"


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = build.oriented(build.smooth_pixels(6, 10), orientation, image_format, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = decode_upright(data, LIMITS)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.shape[:2] == ((6, 10) if orientation < 5 else (10, 6))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(image_format):
    red, blue = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 255), np.uint8)
    data = build.animation(image_format, [red, blue])
    np.testing.assert_array_equal(decode_upright(data, LIMITS), red)


def test_running_out_of_memory_is_not_the_fault_of_the_image(monkeypatch):
    lacking = OSError("out of memory error when reading image file")
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=lacking))
    with pytest.raises(MemoryError, match="out of memory"):
        decode_upright(build.jpeg(), LIMITS)


def test_a_format_of_a_plugin_is_decoded_only_where_it_is_named():
    data = hostile("nothing")
    assert refusal(data).reason == "not_an_image"
    limits = ImagesConfig(decoder_plugins=("tests.builders.hostile_plugin",))
    assert decode_upright(data, limits).shape == (3, 5, 3)
    # Imported by now, as a stage does when it starts.
    assert decode_proven(data).shape == (3, 5, 3)


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_pngs_orientation_is_found_on_both_sides_of_its_pixels_without_decoding_them(monkeypatch, orientation, place):
    data = build.oriented(build.random_pixels(6, 10), orientation)
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    rest = data.replace(chunk, b"")
    at = rest.index(place) - 4
    moved = rest[:at] + chunk + rest[at:]
    decoded = []
    load = PngImagePlugin.PngImageFile.load_prepare
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda im: (decoded.append(im.size), load(im)))
    assert exif_orientation(moved) == orientation
    assert exif_orientation(build.png_of_header_only(2**13, 2**12)) == 1
    assert set(decoded) <= {(1, 1)}


def test_formats_that_run_other_programs_are_not_on_the_list():
    Image.init()
    import_plugins(["tests.builders.hostile_plugin"])
    assert "EPS" in Image.OPEN
    # Another test of this process may have loaded the plug-in for HEIF.
    assert {*registered_formats()} - {"HEIF"} == {*IMAGE_FORMATS, "HOSTILE"}


def test_naming_a_plugin_imports_nothing():
    with pytest.raises(ConfigError, match="--plugin a_strangers_module"):
        exif_orientation(hostile("hang"), ("a_strangers_module",))
    assert loaded_plugins(("a_strangers_module", "tests.builders.hostile_plugin")) == ("tests.builders.hostile_plugin",)


HEIF_LIMITS = load_config("tiny", assignments=[f"images.decoder_plugins=[{HEIF_PLUGIN}]"]).images
# Blocks of one colour, which lossy compression keeps.
PIXELS = np.kron(np.random.default_rng(4).integers(0, 255, (4, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))


def heic(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = pillow_heif.from_pillow(Image.fromarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, quality=-1, chroma=444, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prover():
    import_plugins([HEIF_PLUGIN])
    with Prover(HEIF_LIMITS) as prover:
        yield prover


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_upright(prover, orientation):
    data, upright = heic(PIXELS, orientation), turn_upright(PIXELS, orientation)
    assert prover.prove(data).size == upright.shape[:2]
    assert np.abs(decode_upright(data, HEIF_LIMITS).astype(int) - upright).max() <= 3


def test_what_is_transparent_is_laid_on_white(prover):
    clear = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    assert decode_upright(heic(clear), HEIF_LIMITS).min() == 255


def test_a_truncated_photograph_is_no_half_image(prover):
    data = heic(PIXELS)
    for end in (20, len(data) // 2, len(data) - 10):
        with pytest.raises(ImageError, match=r"header is|stopped before|no decoder recognises") as caught:
            prover.prove(data[:end])
        assert caught.value.reason in ("corrupt", "not_an_image")


def test_without_the_extra_a_run_is_refused_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, HEIF_PLUGIN, None)
    with pytest.raises(ConfigError, match=r"names 'pillow_heif.HeifImagePlugin'.*pip install 'pseudoris\[heif\]'"):
        import_plugins([HEIF_PLUGIN])
