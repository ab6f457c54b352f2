import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pseudoris.schemas.source_settings import IMAGE_FORMATS
from pseudoris.viewer.thumbnails import MAX_SIDE_PX, thumbnail
from tests.builders import hostile_plugin
from tests.viewer.builders import picture


def opened(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image


def saved(image, image_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"), [((2000, 1000), (800, 400)), ((90, 60), (90, 60)), ((1, 5000), (1, 800))]
)
def test_the_longer_side_is_bounded_and_small_pictures_are_left(size, expected):
    assert opened(thumbnail(picture(size=size))).size == expected
    assert max(expected) <= MAX_SIDE_PX


def test_a_large_jpeg_is_bounded_too():
    assert opened(thumbnail(picture("JPEG", size=(3000, 1500)))).size == (800, 400)


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6

    assert opened(thumbnail(picture("JPEG", size=(200, 100), exif=exif))).size == (100, 200)


def test_transparency_lies_on_white():
    pixel = opened(thumbnail(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0))))).convert("RGB").getpixel((4, 4))

    assert pixel == pytest.approx((255, 255, 255), abs=3)


def test_16_bit_grey_keeps_its_brightness():
    levels = np.full((8, 8), 128 << 8, dtype=np.uint16)
    pixel = opened(thumbnail(saved(Image.fromarray(levels)))).convert("RGB").getpixel((4, 4))

    assert pixel == pytest.approx((128, 128, 128), abs=3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_other_modes_are_shown(mode):
    image_format = "TIFF" if mode == "CMYK" else "PNG"

    assert opened(thumbnail(picture(image_format, mode=mode))).size == (90, 60)


@pytest.mark.parametrize("data", [b"", b"no image", picture("JPEG", size=(300, 300))[:-200]])
def test_what_cannot_be_read_is_none(data):
    assert thumbnail(data) is None


def test_an_svg_that_poses_as_an_image_is_none():
    assert thumbnail(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>') is None


@pytest.mark.parametrize("image_format", ["EPS", "PPM", "PCX"])
def test_formats_off_the_closed_list_are_not_opened(image_format):
    assert thumbnail(picture(image_format)) is None


def test_a_format_of_a_plug_in_is_opened_where_it_is_allowed():
    data = hostile_plugin.hostile("nothing")
    assert thumbnail(data) is None
    assert opened(thumbnail(data, (*IMAGE_FORMATS, "HOSTILE"))).size == (5, 3)


def test_every_format_of_the_list_is_opened_by_a_process_that_has_loaded_no_plugin():
    # In this process other tests may have imported them.
    code = (
        "import sys; from pseudoris.viewer.thumbnails import thumbnail; "
        "data = sys.stdin.buffer.read().split(b'--next--')\n"
        "print([thumbnail(one) is not None for one in data])"
    )
    pictures = [picture(name) for name in IMAGE_FORMATS]
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"--next--".join(pictures), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == str([True] * len(IMAGE_FORMATS))
