"""A human's masks on a proven image: sizes, orientations, damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco

from pseudoris.images.pixels import decode_upright
from pseudoris.interchange.imports.human_annotation import HumanImage, HumanMask, HumanPhrase, annotate_image
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import Failure, ShardImage
from tests.builders.human import box_mask, polygon, rle, runs
from tests.builders.images import oriented, smooth_pixels

LIMITS = ImagesConfig()
STORED = (10, 16)
BOX = (2, 1, 7, 4)


def picture(orientation: int = 1, image_format: str = "PNG") -> ShardImage:
    """Return a proven image that lies in its file as STORED and is turned by EXIF."""
    data = oriented(smooth_pixels(*STORED), orientation, image_format)
    height, width = decode_upright(data, LIMITS).shape[:2]
    return ShardImage(0, image_id("a.png"), "a.png", data, "0" * 64, height, width)


def human(segmentation, size=STORED) -> HumanImage:
    return HumanImage("a.png", size, (HumanMask(3, 431, segmentation),), (HumanPhrase((3,), "a box"),))


def annotated(image: ShardImage, what: HumanImage, orientation="upright") -> ShardImage:
    return annotate_image(image, what, orientation=orientation, limits=LIMITS)


def pixels(image: ShardImage) -> np.ndarray:
    (mask,) = image.masks
    return coco.decode({"size": list(mask.rle_size), "counts": mask.rle_counts.encode()}).astype(bool)


def upright_by_pillow(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Return a stored mask as Pillow turns it: an independent reference."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer))) > 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_masks_of_a_turned_image_are_taken_as_they_are(orientation):
    image = picture(orientation)
    size = (image.height, image.width)
    mask = box_mask((1, 2, 5, 4), size)
    done = annotated(image, human(rle(mask), size))
    assert done.failure is None
    np.testing.assert_array_equal(pixels(done), mask)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_masks_of_a_turned_image_are_turned_with_it(orientation, image_format):
    mask = box_mask(BOX, STORED)
    mask[1, 2] = False
    for form in (rle(mask), runs(mask)):
        image = picture(orientation, image_format)
        done = annotated(image, human(form), "stored")
        assert done.failure is None, done.failure
        np.testing.assert_array_equal(pixels(done), upright_by_pillow(mask, orientation))
        (record,) = done.masks
        rows, columns = np.nonzero(pixels(done))
        assert record.rle_size == (image.height, image.width)
        assert record.box_xyxy_px == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert record.area_px == mask.sum()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_with_their_sides_swapped_are_quarantined_and_the_message_says_what_to_try(orientation):
    image = picture(orientation)
    upright = annotated(image, human([polygon(BOX)], STORED))
    assert (upright.failure.stage, upright.failure.reason) == ("import", "annotation_mismatch")
    assert "10 x 16 pixels (height x width), the upright image has 16 x 10" in upright.failure.message
    assert "--orientation stored" in upright.failure.message
    stored = annotated(image, human([polygon(BOX)], STORED[::-1]), "stored")
    assert "--orientation upright" in stored.failure.message
    assert (stored.masks, stored.expressions, stored.data) == ((), (), b"")


def test_another_size_is_quarantined_without_a_guess():
    done = annotated(picture(), human([polygon(BOX)], (10, 17)))
    assert done.failure.reason == "annotation_mismatch"
    assert "--orientation" not in done.failure.message


def test_an_rle_of_another_size_than_its_image_is_quarantined_also_where_the_entry_states_none():
    done = annotated(picture(), human(rle(np.ones((3, 3), bool)), None))
    assert done.failure == Failure(
        "import",
        "annotation_mismatch",
        "annotation 431: the segmentation is of size [3, 3], the image has [10, 16]",
    )


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": list(STORED), "counts": "0"},
        {"size": list(STORED), "counts": "o" * 50},
        {"size": list(STORED), "counts": "é"},
        {"size": list(STORED), "counts": b"\xff"},
        {"size": list(STORED), "counts": [5]},
        {"size": list(STORED), "counts": [-5, 165]},
        [[1, 2, 3]],
        "polygon",
        5,
    ],
)
def test_a_mask_that_does_not_decode_is_quarantined_with_its_annotation(segmentation):
    done = annotated(picture(), human(segmentation))
    assert (done.failure.stage, done.failure.reason) == ("import", "annotation_damaged")
    assert done.failure.message.startswith("annotation 431: ")
