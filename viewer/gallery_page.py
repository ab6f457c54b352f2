"""Writes the gallery: a page of images, masks, expressions. For `cli/gallery.py`, `quality_page`, examples.

    DEST/index.html   DEST/pictures/<image id>.webp        (`quality_page` makes DEST/quality.html)

The page loads only the pictures next to it, so it opens from a disk and from a static bucket. An image is a card with a
record in JSON of its masks and expressions, which `templates/model.js` reads: both must change together.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

from pseudoris.files.location import RunLocation
from pseudoris.images.prover import PictureForm
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import mask_index, sha256_hex
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.runs.lock import LOCK_FOLDER
from pseudoris.viewer.gallery_sample import Gallery, GalleryImage, GallerySummary, Row
from pseudoris.viewer.outlines import Outline, frame_size, outline_of, spread_labels
from pseudoris.viewer.pages import GENERATOR, MASK_COLOURS, embedded_json, iter_page, run_pictures

logger = logging.getLogger(__name__)

# A picture has twice its size on a card, for dense screens and for the larger view. Captions name small things: below
# a quality of about 80, WebP's artefacts hide them; above 90 the folder doubles.
THUMBNAIL: Final = PictureForm("WEBP", max_side_px=800, quality=84)

INDEX_NAME: Final = "index.html"
QUALITY_NAME: Final = "quality.html"
PICTURES_FOLDER: Final = "pictures"
# The page's script joins these files in this order within the body of one function.
_SCRIPTS: Final = (
    *("model", "rules", "sorting", "pair_marks", "filters", "elements", "peek", "cards", "inspector", "keyboard"),
    *("address", "main"),
)
_REMEDY: Final = "Name a new or an empty folder with --to"
_PICTURE_NAME: Final = re.compile(r"^[0-9a-f]{16}\.webp$")
_MARK: Final = f'<meta name="generator" content="{GENERATOR}">'

# At most this many blank pictures are logged: if this machine lacks an image format, every picture is blank.
_MAX_WARNINGS: Final = 3
# Scores in the record are rounded to this many digits. Distinctiveness is not, because τ is compared with it.
_DIGITS: Final = 5
_HASH_DIGITS: Final = 8

OnImage = Callable[[int, int], None]  # gets the number of images that are done, and of all


def check_destination(destination: RunLocation) -> None:
    """Refuse a folder that holds other files than a gallery's, or a page of the same name, which would be lost."""
    for name in (INDEX_NAME, QUALITY_NAME):
        if destination.exists(name) and _MARK.encode() not in destination.read_bytes(name):
            raise ConfigError(f"{destination.uri(name)} is not a page of a gallery. Name another folder with --to.")
    if not destination.exists(INDEX_NAME):
        destination.refuse_others({PICTURES_FOLDER, QUALITY_NAME, LOCK_FOLDER}.__contains__, _REMEDY)
        destination.refuse_others(_PICTURE_NAME.match, _REMEDY, PICTURES_FOLDER)


def write_gallery(gallery: Gallery, destination: RunLocation, on_image: OnImage = lambda done, total: None) -> str:
    """Write the pictures, then the page; return the page's address.

    The page appears whole or not at all; pictures of an earlier gallery that this one lacks are deleted at the end.
    Of the decoder plug-ins of a run, those that this process has imported are used.
    """
    written: set[str] = set()
    summary, rule = gallery.summary, gallery.summary.rule
    settings: dict[str, Any] = {
        "tau": summary.tau,
        "hasTau": rule is not None and rule.tau is not None,
        "lone": rule.lone_masks if rule else "",
        "bounds": _bounds(summary),
        "score": "confidence" if summary.is_by_confidence else "distinctiveness",
        "conditions": [str(condition) for condition in rule.conditions] if rule else [],
        "colours": len(MASK_COLOURS),
        "pairs": summary.pairs_digest,
    }
    if gallery.verdicts:
        settings["verdicts"] = {pair: dict(each) for pair, each in gallery.verdicts.items()}
    content: dict[str, Any] = {
        "summary": summary,
        "num_images": gallery.num_images,
        "verdicts": sorted({each for raters in gallery.verdicts.values() for each in raters.values()}),
        "settings": embedded_json(settings),
        "bounds": settings["bounds"],
        "quarantined": list(gallery.quarantined),
        "reasons": FAILURE_REASONS,
        "quality_name": QUALITY_NAME,
        "index_name": INDEX_NAME,
    }
    with run_pictures(THUMBNAIL) as small:
        content["cards"] = _cards(gallery, destination, written, small, on_image)
        page = "".join(iter_page("gallery.html.j2", content, styles=("base", "gallery"), scripts=_SCRIPTS))
    destination.replace(INDEX_NAME, page.encode())
    for file in list(destination.list(PICTURES_FOLDER)):
        if _PICTURE_NAME.match(file.name) and file.name not in written:
            destination.delete(f"{PICTURES_FOLDER}/{file.name}")
    destination.delete_temporary("", PICTURES_FOLDER)
    return destination.uri(INDEX_NAME)


def _bounds(summary: GallerySummary) -> list[dict[str, Any]]:
    """Return the bounds of the run's rule that the slider can move, the one that decides most first."""
    rule, tau = summary.rule, {"name": "tau", "label": "τ", "column": "distinctiveness", "comparison": ">"}
    found: list[dict[str, Any]] = []
    if rule is not None and rule.tau is not None:
        found = [
            {
                **{"name": "confidence", "label": "captions' confidence", "column": "confidence"},
                **{"comparison": each.comparison, "value": each.bound, "condition": number},
            }
            for number, each in enumerate(rule.conditions)
            if each.column == "confidence"
        ][:1]
    if rule is not None and summary.least_composed is not None:
        named = {"name": "composed", "label": "composed confidence", "column": "confidence", "comparison": ">"}
        found.append({**named, "value": summary.least_composed})
    # Every distinctiveness is above 0, so a tau of 0 decides nothing.
    place = len(found) if summary.tau == 0 else 0
    return [*found[:place], {**tau, "value": summary.tau}, *found[place:]]


def _cards(
    gallery: Gallery,
    destination: RunLocation,
    written: set[str],
    small_of: Callable[[bytes, ImagesConfig], bytes | None],
    on_image: OnImage,
) -> Iterator[dict[str, Any]]:
    """Yield the cards one by one, and write each image's small picture; its name joins `written`."""
    num_unread = 0
    for number, image in enumerate(gallery.images, start=1):
        name = f"{image.image_id}.webp"
        small = small_of(image.data, image.settings) if image.data else None
        if image.data and small is None:
            num_unread += 1
            if num_unread <= _MAX_WARNINGS:
                logger.warning("The gallery does not show image %s: no installed decoder can read it.", image.key)
        if small is not None:
            destination.replace(f"{PICTURES_FOLDER}/{name}", small)
            written.add(name)
        yield image_card(image, picture=f"{PICTURES_FOLDER}/{name}" if small is not None else None)
        on_image(number, gallery.num_images)
    if num_unread > _MAX_WARNINGS:
        logger.warning("%d images in total cannot be decoded here.", num_unread)


@dataclass(frozen=True, slots=True)
class MaskShape:
    """One mask over its picture: its position on the card, the proposer's number, and the number of its colour class.

    `outline` is None if the encoding is damaged; the page says so, and shows the rest.
    """

    order: int
    index: int
    colour: int
    outline: Outline | None


def image_card(image: GalleryImage, *, picture: str | None) -> dict[str, Any]:
    """Return what the template shows of an image; `picture` is the address of its small picture, relative to the page.

    Width and height are in the page's units; `name` is the key as a person writes it; `record` is JSON for the script.
    """
    height, width = frame_size(image.height, image.width)
    shapes = _shapes(image.masks, (height, width))
    order_of = {shape.index: shape.order for shape in shapes}
    masks = [
        {
            "index": shape.index,
            "area": round(mask["area_px"] / max(1, math.prod(mask["segmentation"]["size"])), _DIGITS),
            "iou": _rounded(mask["predicted_iou"]),
            "stability": _rounded(mask["stability_score"]),
            "prior": mask["prior"],
            "damaged": shape.outline is None,
        }
        for mask, shape in zip(image.masks, shapes, strict=True)
    ]
    record = {"masks": masks, "expressions": [_expression_record(each, order_of) for each in image.expressions]}
    return {
        **{"image_id": image.image_id, "key": image.key, "name": unquote(image.key)},
        "pixels": f"{image.width} × {image.height}",
        "picture": picture,
        **{"width": round(width, 1), "height": round(height, 1), "masks": shapes},
        # An image without masks may have expressions too, which refer to no mask.
        "has_expressions": bool(image.expressions),
        "record": embedded_json(record),
    }


def _shapes(masks: Sequence[Row], size: tuple[float, float]) -> tuple[MaskShape, ...]:
    shapes = []
    for order, mask in enumerate(masks):
        try:
            outline = outline_of(mask["segmentation"]["counts"], mask["segmentation"]["size"])
        except ValueError:
            outline = None
        shapes.append(MaskShape(order, mask_index(mask["mask_id"]), order % len(MASK_COLOURS), outline))
    drawn = [(shape, shape.outline) for shape in shapes if shape.outline is not None]
    places = spread_labels([(str(shape.index), outline.label_xy) for shape, outline in drawn], size)
    for (shape, outline), place in zip(drawn, places, strict=True):
        shapes[shape.order] = replace(shape, outline=replace(outline, label_xy=place))
    return tuple(shapes)


def _expression_record(row: Row, order_of: Mapping[int, int]) -> dict[str, Any]:
    targets = [mask_index(mask_id) for mask_id in row["target_mask_ids"]]
    rival = row["rival_mask_id"]
    return {
        "text": row["text"],
        # The id of a mask's text ends with this hash, on the page and in audits.
        "hash": sha256_hex(row["text"].encode())[:_HASH_DIGITS],
        "head": row["head_noun"],
        "targets": [order_of[index] for index in targets if index in order_of],
        "nothing": not targets,
        "human": row["source"] == SOURCE_HUMAN,
        # Most are an attribute's, which the script takes for granted.
        **({"kind": row["kind"]} if row["kind"] != "attribute" else {}),
        # `composed` is left out if it is false, as in most runs, to keep the page small.
        **({"composed": True} if row["source"] == SOURCE_COMPOSER else {}),
        "judged": row["judged"],
        "unmet": row["unmet"],
        "count": row["count"],
        "uniqueness": _rounded(row["uniqueness"]),
        "correctness": _rounded(row["correctness"]),
        "distinctiveness": _rounded(row["distinctiveness"], None),
        "rival": None if rival is None else order_of.get(mask_index(rival)),
        "kept": row["kept"],
        "weight": _rounded(row["weight"]),
        # Columns are left out if they are null, as in most runs, to keep the page small.
        # A confidence is not rounded: the slider compares it, as distinctiveness.
        **{
            name: value
            for name in OPTIONAL_COLUMNS
            if (value := _rounded(row[name], None if name == "confidence" else _DIGITS)) is not None
        },
        # A draw is a list, because a mask has 44 draws, and names of fields would fill most of the page.
        "draws": [
            [
                *(draw["crop"], draw["decoder"], draw["top_p"] if draw["top_k"] is None else draw["top_k"]),
                *(_rounded(draw["log_prob"]), draw["others"], draw["num_others"]),
                [order_of[index] for index in draw["other_masks"] if index in order_of],
            ]
            for draw in row["samples"] or ()
        ],
    }


def _rounded(value: float | None, digits: int | None = _DIGITS) -> float | None:
    # JSON has no infinity, so such a score is left out.
    if value is None or not abs(value) < float("inf"):
        return None
    return value if digits is None else round(value, digits)
