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
from pseudoris.schemas.shard import ShardImage
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


def upright_by_pillow(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Return a stored mask as Pillow turns it: an independent reference."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer))) > 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_masks_of_a_turned_image_are_turned_with_it_and_upright_ones_taken_as_they_are(
    orientation, image_format
):
    mask = box_mask(BOX, STORED)
    mask[1, 2] = False
    upright = upright_by_pillow(mask, orientation)
    given = [(mask, rle, "stored"), (mask, runs, "stored"), (upright, rle, "upright")]
    for pixels, form, how in given:
        image = picture(orientation, image_format)
        done = annotated(image, human(form(pixels), pixels.shape), how)
        assert done.failure is None, done.failure
        (record,) = done.masks
        found = coco.decode({"size": list(record.rle_size), "counts": record.rle_counts.encode()})
        np.testing.assert_array_equal(found, upright)
        rows, columns = np.nonzero(upright)
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


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (human([polygon(BOX)], (10, 17)), "10 x 17 pixels"),
        # The entry states no size.
        (
            human(rle(np.ones((3, 3), bool)), None),
            "annotation 431: the segmentation is of size [3, 3], the image has [10, 16]",
        ),
    ],
)
def test_another_size_is_quarantined_without_a_guess(what, message):
    failure = annotated(picture(), what).failure
    assert (failure.stage, failure.reason) == ("import", "annotation_mismatch")
    assert message in failure.message
    assert "--orientation" not in failure.message


COUNTS = ("0", "o" * 50, "é", b"\xff", [5], [-5, 165])


@pytest.mark.parametrize(
    "segmentation", [*({"size": list(STORED), "counts": each} for each in COUNTS), [[1, 2, 3]], "polygon", 5]
)
def test_a_mask_that_does_not_decode_is_quarantined_with_its_annotation(segmentation):
    done = annotated(picture(), human(segmentation))
    assert (done.failure.stage, done.failure.reason) == ("import", "annotation_damaged")
    assert done.failure.message.startswith("annotation 431: ")
