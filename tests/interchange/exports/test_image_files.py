"""Image files that every loader sees alike, under names that lead nowhere, and masks in every form of an export."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from PIL import Image
from pycocotools import mask as coco
from scipy.ndimage import gaussian_filter

from pseudoris.files.key_order import member_key, path_key, row_key
from pseudoris.images.pixels import common_suffix, decode_upright
from pseudoris.interchange.exports.image_files import image_file_name, image_file_of
from pseudoris.interchange.exports.record import ExportMask
from pseudoris.primitives.errors import ImageError
from pseudoris.primitives.polygons import centre_polygons, corner_polygon
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import MaskRecord
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


# A mask in every form that an export gives it: each holds exactly the pixels of the tables.


ANY_MASK = np_st.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


def mask_of(pixels: np.ndarray) -> ExportMask:
    counts = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))["counts"].decode("ascii")
    return ExportMask(1, MaskRecord("m-0000", 0, pixels.shape, counts, (0, 0, 1, 1), int(pixels.sum())))


@given(ANY_MASK)
def test_pixels_runs_and_the_point_within_are_those_of_the_mask(pixels):
    mask = mask_of(pixels)
    assert np.array_equal(mask.pixels(), pixels)
    polygon, counts = mask.corner_polygon(mask.pixels())
    assert np.array_equal(coco.decode(coco.merge(coco.frPyObjects([polygon], *pixels.shape))), pixels)
    assert counts == mask.record.rle_counts
    x, y = mask.point_within()
    assert pixels[int(y), int(x)]


def filled_by_pycocotools(pixels: np.ndarray) -> np.ndarray:
    polygon = [value for point in corner_polygon(pixels) for value in point]
    assert len(polygon) >= 8
    return coco.decode(coco.merge(coco.frPyObjects([polygon], *pixels.shape))).astype(bool)


def filled_by_opencv(pixels: np.ndarray) -> np.ndarray:
    """Fill as LISA's `get_mask_from_json` does (utils/data_processing.py, 3cb2d43): outline, then area."""
    cv2 = pytest.importorskip("cv2", reason="opencv fills the polygons of pixel centres")
    drawn = np.zeros(pixels.shape, np.uint8)
    for polygon in centre_polygons(pixels):
        points = np.array([polygon], dtype=np.int32)
        cv2.polylines(drawn, points, True, 1, 1)
        cv2.fillPoly(drawn, points, 1)
    return drawn.astype(bool)


def filled_by_winding(pixels: np.ndarray) -> np.ndarray:
    """Fill the pixels whose centre the polygon goes round, more often one way than the other, as canvases do."""
    y, x = np.indices(pixels.shape) + 0.5
    winding = np.zeros(pixels.shape, int)
    polygon = corner_polygon(pixels)
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        is_left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        winding += ((y0 <= y) & (y < y1) & (is_left > 0)).astype(int) - ((y1 <= y) & (y < y0) & (is_left < 0))
    return winding != 0


FILLERS = [filled_by_pycocotools, filled_by_opencv, filled_by_winding]


@pytest.mark.parametrize("filled", FILLERS)
@given(pixels=ANY_MASK)
def test_polygons_fill_to_the_mask_with_its_holes_and_parts(filled, pixels):
    assert np.array_equal(filled(pixels), pixels)


@pytest.mark.parametrize("num_masks", [500, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("filled", FILLERS)
def test_masks_with_holes_and_parts_are_filled_exactly(filled, num_masks):
    draw = np.random.default_rng(47)
    for number in range(num_masks):
        noise = draw.random(draw.integers(1, 40, 2))
        if number % 3:
            noise = gaussian_filter(noise, draw.uniform(0.3, 2))
        pixels = noise >= np.quantile(noise, draw.uniform(0.05, 0.95))
        assert np.array_equal(filled(pixels), pixels), f"mask {number}"
