"""Small galleries to test against: every default is safe, so that a test names only what matters to it."""

import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from viewer.model import Gallery, GalleryExpression, GalleryImage, GalleryMask, GallerySummary, QuarantinedImage

HEIGHT, WIDTH = 60, 90


def encode(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")


def rectangle(box=(10, 10, 40, 30), size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def make_expression(text="the red circle", *, distinctiveness=1.2, rival_index=1, kept=True, **changes):
    fields = {"head_noun": "circle", "count": 1, "uniqueness": 1.1, "correctness": 0.25, **changes}
    return GalleryExpression(text, distinctiveness=distinctiveness, rival_index=rival_index, kept=kept, **fields)


def make_mask(index=0, *, box=(10, 10, 40, 30), expressions=None, counts=None):
    if expressions is None:
        rejected = make_expression("a circle", distinctiveness=0.8, kept=False)
        expressions = (make_expression(), rejected)
    mask = rectangle(box)
    counts = encode(mask) if counts is None else counts
    return GalleryMask(index, (HEIGHT, WIDTH), counts, int(mask.sum()), 0.9, tuple(expressions))


def picture(image_format="PNG", size=(WIDTH, HEIGHT), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 0).save(file, image_format, **options)
    return file.getvalue()


def make_image(key="a/b.png", *, masks=None, data=None):
    if masks is None:
        masks = (make_mask(0), make_mask(1, box=(50, 20, 80, 50)))
    return GalleryImage(key, HEIGHT, WIDTH, picture() if data is None else data, tuple(masks))


def make_summary(**changes):
    counts = {"images": 3, "annotated": 1, "empty": 1, "quarantined": 1, "masks": 2, "candidates": 4, "kept": 2}
    return GallerySummary(**{"source": "photos/", "tau": 1.0, "seconds": {"propose": 1.5}, **counts, **changes})


def make_gallery(*images, quarantined=(), **summary):
    images = images or (make_image(),)
    return Gallery(make_summary(**summary), iter(images), len(images), tuple(quarantined))


def make_quarantined(key="broken.jpg", message="the header is cut short or damaged"):
    return QuarantinedImage(key, "read", "corrupt", message)
