"""Image files that every loader sees alike, under names that lead nowhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pseudoris.images.pixels import common_suffix, decode_upright
from pseudoris.interchange.exports.image_files import image_file_name, image_file_of, key_name
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.ids import image_id
from pseudoris.store.files.key_order import member_key, path_key, row_key
from pseudoris.store.tables.annotations import AnnotatedImage
from tests.builders import images as build

LIMITS = ImagesConfig()
PIXELS = build.smooth_pixels()


def annotated(data: bytes | None, key: str = "a/b.jpg") -> AnnotatedImage:
    return AnnotatedImage(0, image_id(key), key, *PIXELS.shape[:2], sha256="0" * 64, data=data, masks=())


def plain(data: bytes) -> np.ndarray:
    """What Pillow gives a trainer that turns nothing."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (build.encode(PIXELS, "JPEG"), ".jpg"),
        (build.encode(Image.fromarray(PIXELS).convert("L"), "JPEG"), ".jpg"),
        (build.encode(PIXELS), ".png"),
        (build.encode(Image.fromarray(PIXELS).convert("P")), ".png"),
        (build.encode(Image.fromarray(PIXELS).convert("1")), ".png"),
        (build.oriented(PIXELS, 1), ".png"),
    ],
    ids=["jpeg", "grey jpeg", "png", "palette", "1 bit", "orientation 1"],
)
def test_what_every_reader_sees_alike_keeps_its_bytes(data, suffix):
    picture = image_file_of(annotated(data), LIMITS)
    assert (picture.data, picture.is_encoded_anew) == (data, False)
    assert picture.name.endswith(suffix)
    assert np.array_equal(plain(data), decode_upright(data, LIMITS))


@pytest.mark.parametrize(
    "data",
    [
        *(build.oriented(PIXELS, orientation, kind) for orientation in range(2, 9) for kind in ("JPEG", "PNG")),
        build.encode(PIXELS, "WEBP", lossless=True),
        build.encode(PIXELS, "TIFF"),
        build.encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
        build.encode(Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 128, np.uint8)]), "RGBA")),
        build.png_16_bit(np.tile(np.arange(PIXELS.shape[1], dtype=np.uint16) * 2_000, (PIXELS.shape[0], 1))),
        build.png_16_bit(PIXELS.astype(np.uint16) * 257),
        build.animation("GIF", [PIXELS, PIXELS[::-1]]),
        build.animation("PNG", [PIXELS, PIXELS[::-1]]),
    ],
)
def test_trap_what_readers_differ_about_is_written_upright_and_plain(data):
    assert common_suffix(data) is None
    picture = image_file_of(annotated(data), LIMITS)
    assert picture.is_encoded_anew
    assert picture.name.endswith(".jpg")
    due = decode_upright(data, LIMITS)
    found = plain(picture.data)
    assert found.shape == due.shape
    assert np.abs(found.astype(int) - due).mean() < 4
    # Once plain, always plain: no orientation is left that a reader could obey.
    assert common_suffix(picture.data) == ".jpg"


def test_what_does_not_decode_is_the_images_fault():
    data = build.oriented(build.random_pixels(64, 64), 6, "JPEG")
    with pytest.raises(ImageError, match="stopped before the end"):
        image_file_of(annotated(data[: len(data) * 2 // 3]), LIMITS)


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        (path_key("a/holiday photo.jpeg"), "holiday_photo"),
        (path_key("a/.hidden"), "hidden"),
        (path_key("a/no suffix"), "no_suffix"),
        (path_key("version 1.2.3.png"), "version_1.2.3"),
        (member_key("photos.tar", "../../etc/passwd"), "passwd"),
        (member_key("photos.tar", "..\\..\\boot.ini"), "boot"),
        (member_key("photos.tar", ".."), ""),
        (row_key("tables/photos.parquet", 17), "photos.parquet_17"),
        (path_key("名前.jpg"), ""),
        (path_key("x" * 400 + ".jpg"), "x" * 80),
        (path_key("-rf.jpg"), "rf"),
    ],
)
def test_a_name_keeps_what_is_safe_of_the_key_and_adds_the_id(key, stem):
    number = image_id(key)
    assert image_file_name(annotated(b"", key), ".jpg") == (f"{stem}_{number}.jpg" if stem else f"{number}.jpg")


@pytest.mark.slow
@given(st.lists(st.text(max_size=300), min_size=2, max_size=2, unique=True), st.sampled_from(["path", "member"]))
def test_names_are_unique_and_lead_nowhere_whatever_the_keys(paths, kind):
    keys = [path_key(path) if kind == "path" else member_key("a.tar", path) for path in paths]
    names = [image_file_name(annotated(b"", key), ".jpg") for key in keys]
    assert names[0] != names[1]
    for name in names:
        assert name.isascii()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert name[0] not in ".-"
        assert len(name) < 120


def test_the_name_in_a_key_is_that_of_the_file_in_source():
    assert key_name(path_key("val2014/COCO_val2014 é.jpg")) == "COCO_val2014 é.jpg"
