"""Small galleries and runs to test against: every default is safe, so that a test names only what matters to it."""

from dataclasses import replace

from PIL import Image

from pseudoris.cli.gallery import write_pages
from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS, KeepRule
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord
from pseudoris.store.tables.open_run import QuarantinedImage
from pseudoris.viewer.gallery_sample import Gallery, GalleryImage, GallerySummary
from tests.builders.human import box_mask, rle
from tests.builders.images import encode as encode_image
from tests.builders.sources import entries_of
from tests.store.builders import commit_images, empty, quarantined, start_run

HEIGHT, WIDTH = 60, 90
BOXES = ((10, 10, 40, 30), (50, 20, 80, 50), (5, 40, 30, 55))
# What is said in an image of two masks, as `annotated` takes it.
TWO = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, "a blue circle", 1.3, 0)]
# A row's draw of a caption.
DRAW = {"crop": "context_1.2", "decoder": "top_p", "top_k": None, "top_p": 0.4, "log_prob": -3.25}
DRAW |= {"others": "all", "num_others": 1, "other_masks": []}


def encode(mask):
    return rle(mask)["counts"]


def rectangle(box=BOXES[0]):
    return box_mask(box, (HEIGHT, WIDTH))


def target_id(index):
    """Return the id of a mask of an image that no test names."""
    return mask_id("0" * 16, index)


def make_expression(text="the red circle", *, targets=(0,), rival_index=1, **changes):
    """Return a row of the table of expressions, as a gallery reads it."""
    scores = {"distinctiveness": 1.2, "uniqueness": 1.1, "correctness": 0.25, **dict.fromkeys(OPTIONAL_COLUMNS)}
    fields = {
        "head_noun": "circle",
        "count": 1,
        "weight": 1.0,
        "kept": True,
        "source": "model",
        "kind": "attribute",
        "judged": True,
    }
    masks = {"target_mask_ids": [target_id(index) for index in targets], "rival_mask_id": target_id(rival_index)}
    return {"text": text, **scores, **fields, **masks, "unmet": [], "samples": [DRAW], **changes}


def make_mask(index=0, *, box=BOXES[0], counts=None):
    """Return a row of the table of masks."""
    mask = rectangle(box)
    encoded = {"size": [HEIGHT, WIDTH], "counts": encode(mask) if counts is None else counts}
    scores = {"area_px": int(mask.sum()), "predicted_iou": 0.9, "stability_score": 0.95, "prior": "none"}
    return {"mask_id": target_id(index), "segmentation": encoded, **scores}


def picture():
    return encode_image(Image.new("RGB", (WIDTH, HEIGHT), 0))


def make_image(key="a/b.png", *, masks=None, expressions=None):
    if masks is None:
        masks = (make_mask(0), make_mask(1, box=BOXES[1]))
    if expressions is None:
        weak = make_expression("a circle", distinctiveness=0.8, kept=False)
        expressions = (make_expression(), weak) if masks else ()
    return GalleryImage(image_id(key), key, HEIGHT, WIDTH, picture(), tuple(masks), tuple(expressions))


def make_summary(**changes):
    counts = {"images": 3, "annotated": 1, "empty": 1, "quarantined": 1, "masks": 2, "expressions": 4, "kept": 2}
    rule = KeepRule(1.0)
    return GallerySummary(
        **{"source": "photos/", "tau": 1.0, "rule": rule, "seconds": {"propose": 1.5}, **counts, **changes}
    )


def make_gallery(*images, quarantined=(), **summary):
    images = images or (make_image(),)
    return Gallery(make_summary(**summary), iter(images), len(images), tuple(quarantined))


def make_quarantined(key="broken.jpg", message="the header is truncated or damaged"):
    return QuarantinedImage(key, "read", "corrupt", message)


def spoken(image, index, text, distinctiveness, *, rival=None, **changes):
    """Return a candidate of a mask; without a rival its mask is alone. Kept above 1.35, as the tiny preset has it."""
    sample = CaptionSample("masked", "beam", None, None, -3.5)
    near = CaptionSample("context_1.2", "top_p", None, 0.4, -2.25, "nearest", 1, (rival or 0,))
    scores = {"kept": distinctiveness is None or distinctiveness > 1.35, "correctness": 0.5}
    if rival is not None:
        scores |= {"uniqueness": 1.2, "distinctiveness": distinctiveness, "rival_mask_id": mask_id(image, rival)}
    fields = {"head_noun": "circle", "samples": (sample, near), **scores, **changes}
    return ExpressionRecord((mask_id(image, index),), text, **fields)


def annotated(entry, num_masks=2, expressions=None, data=None):
    """Return an image with rectangles as masks; `expressions` of (mask, text, distinctiveness, rival[, changes])."""
    image = entry.image_id

    def mask_record(n):
        pixels = rectangle(BOXES[n])
        return MaskRecord(mask_id(image, n), n, (HEIGHT, WIDTH), encode(pixels), BOXES[n], int(pixels.sum()), 0.9, 0.95)

    masks = tuple(map(mask_record, range(num_masks)))
    data = picture() if data is None else data
    candidates = tuple(
        spoken(image, mask, text, d, rival=rival, **dict(*changes))
        for mask, text, d, rival, *changes in expressions or ()
    )
    size = {"height": HEIGHT, "width": WIDTH, "data": data, "sha256": sha256_hex(data)}
    return replace(empty(entry), masks=masks, expressions=candidates, **size)


def write_run(folder, *makers, seconds=None, settings=(), **changes):
    """Commit a run whose images are what `makers`, of (key, function of a plan's entry), make; return its location."""
    location, made = RunLocation.open(str(folder)), dict(makers)
    header = start_run(location, entries_of(made), *settings, **changes)
    spent = {"seconds": seconds or {"propose": 1.5, "caption": 2.0}, "nodes": ("node-a",)}
    commit_images(location, header, lambda entry: made[entry.key](entry), embed_images=True, **spent)
    return location


def pages_of(folder, *makers, **changes):
    """Write a run and its pages, and return the folder of the pages."""
    write_pages(write_run(folder / "a run", *makers, **changes).root)
    return folder / "a run" / "gallery"


def set_tau(page, value):
    """Move the slider as its own event says it has moved; `drag` in `test_browser` moves it by hand."""
    slide = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }"
    page.locator("#tau").evaluate(slide, value)


def quarantined_because(message):
    def make(entry):
        image = quarantined(entry)
        return replace(image, failure=replace(image.failure, message=message))

    return make
