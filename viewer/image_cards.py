"""The card of an image with its masks and candidates, and the record of it that the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

from markupsafe import Markup

from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import LISTENER_COLUMNS
from pseudoris.schemas.printable import visible
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from pseudoris.viewer.gallery_model import GalleryDraw, GalleryExpression, GalleryImage, GalleryMask
from pseudoris.viewer.outlines import Outline, frame_size, outline_of, spread_labels

# Hues in degrees of OKLCH, ordered so that neighbours in the list differ most; then once more, darker.
_HUES: Final = (28, 250, 142, 85, 320, 200, 55, 285, 115, 0, 225, 170)
_LIGHTNESSES: Final = (0.74, 0.62, 0.86)
NUM_COLOURS: Final = len(_HUES) * len(_LIGHTNESSES)
# More than the page shows. What τ is compared with is not rounded.
_DIGITS: Final = 5
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class MaskShape:
    """One mask over its picture.

    Attributes:
        order: Position on the card; the record's lists count by it.
        index: The proposer's number, which the page shows.
        colour: Number of its colour class.
        outline: None where its encoding is damaged: `verify` is what reports it, the page shows the rest.
    """

    order: int
    index: int
    colour: int
    outline: Outline | None


@dataclass(frozen=True, slots=True)
class ImageCard:
    """One image on the page; width and height in the page's units.

    Attributes:
        image_id: It begins the ids of the image's pairs.
        name: The key as a person writes it.
        picture: Address of the small picture, relative to the page; None where there is none.
        has_expressions: An image without a mask may have some that refer to nothing.
        record: JSON that no HTML parser reads as anything else.
    """

    image_id: str
    key: str
    name: str
    pixels: str
    picture: str | None
    width: float
    height: float
    masks: tuple[MaskShape, ...]
    has_expressions: bool
    record: Markup


def image_card(image: GalleryImage, *, picture: str | None) -> ImageCard:
    """Return the card of an image; `picture` is the address of its small picture."""
    height, width = frame_size(image.height, image.width)
    shapes = _apart([_shape(mask, order) for order, mask in enumerate(image.masks)], (height, width))
    return ImageCard(
        image_id=image.image_id,
        key=image.key,
        name=unquote(image.key),
        pixels=f"{image.width} × {image.height}",
        picture=picture,
        width=round(width, 1),
        height=round(height, 1),
        masks=shapes,
        has_expressions=bool(image.expressions),
        record=embedded_json(_record(image, shapes)),
    )


def mask_colours() -> list[str]:
    """Return the CSS colours of the masks of a card, in order: the first `NUM_COLOURS` differ."""
    return [f"oklch({lightness} 0.17 {hue})" for lightness in _LIGHTNESSES for hue in _HUES]


def embedded_json(value: object) -> Markup:
    """Return JSON for a script element: without `<`, so that no untrusted text can end the element.

    Source: HTML, "Restrictions for contents of script elements".
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isprintable() or "\\" in text:
        # The page's script shows the texts as they are, in attributes too.
        text = json.dumps(_visible(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _visible(value: object) -> object:
    if isinstance(value, dict):
        return {key: _visible(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(each) for each in value]
    return visible(value)


def _shape(mask: GalleryMask, order: int) -> MaskShape:
    try:
        outline = outline_of(mask.rle_counts, mask.rle_size)
    except ValueError:
        outline = None
    return MaskShape(order, mask.index, order % NUM_COLOURS, outline)


def _apart(shapes: Sequence[MaskShape], size: tuple[float, float]) -> tuple[MaskShape, ...]:
    drawn = [(shape, shape.outline) for shape in shapes if shape.outline is not None]
    places = spread_labels([(str(shape.index), outline.label_xy) for shape, outline in drawn], size)
    moved = {
        shape.order: replace(outline, label_xy=place) for (shape, outline), place in zip(drawn, places, strict=True)
    }
    return tuple(replace(shape, outline=moved.get(shape.order)) for shape in shapes)


def _record(image: GalleryImage, shapes: tuple[MaskShape, ...]) -> dict[str, Any]:
    order_of = {mask.index: order for order, mask in enumerate(image.masks)}
    return {
        "masks": [_mask_record(mask, shape) for mask, shape in zip(image.masks, shapes, strict=True)],
        "expressions": [_expression_record(expression, order_of) for expression in image.expressions],
    }


def _mask_record(mask: GalleryMask, shape: MaskShape) -> dict[str, Any]:
    height, width = mask.rle_size
    return {
        "index": mask.index,
        "area": round(mask.area_px / max(1, height * width), _DIGITS),
        "iou": _rounded(mask.predicted_iou),
        "stability": _rounded(mask.stability_score),
        "prior": mask.prior,
        "damaged": shape.outline is None,
    }


def _expression_record(expression: GalleryExpression, order_of: Mapping[int, int]) -> dict[str, Any]:
    rival = expression.rival_index
    return {
        "text": expression.text,
        # The end of the pair's id, as an audit has it.
        "hash": sha256_hex(expression.text.encode())[:_HASH_DIGITS],
        "head": expression.head_noun,
        "targets": [order_of[index] for index in expression.targets if index in order_of],
        "nothing": not expression.targets,
        "human": expression.source == SOURCE_HUMAN,
        # Absent where nothing is composed, as in most runs.
        **({"composed": True} if expression.source == SOURCE_COMPOSER else {}),
        "judged": expression.is_judged,
        "unmet": expression.unmet,
        "count": expression.count,
        "uniqueness": _rounded(expression.uniqueness),
        "correctness": _rounded(expression.correctness),
        "distinctiveness": _finite(expression.distinctiveness),
        "rival": None if rival is None else order_of.get(rival),
        "kept": expression.kept,
        "weight": _rounded(expression.weight),
        # Absent where they are null, as in most runs.
        **{name: value for name in LISTENER_COLUMNS if (value := _rounded(getattr(expression, name))) is not None},
        "draws": [_draw_record(draw, order_of) for draw in expression.draws],
    }


def _draw_record(draw: GalleryDraw, order_of: Mapping[int, int]) -> list[Any]:
    """As a list: a mask has 44 of them, and the names would be most of the page."""
    setting = draw.top_k if draw.top_k is not None else draw.top_p
    others = [order_of[index] for index in draw.other_masks if index in order_of]
    return [draw.crop, draw.decoder, setting, _rounded(draw.log_prob), draw.others, draw.num_others, others]


def _finite(value: float | None) -> float | None:
    # JSON has no infinity: a score that is not finite is shown as absent.
    return None if value is None or not abs(value) < float("inf") else value


def _rounded(value: float | None) -> float | None:
    finite = _finite(value)
    return None if finite is None else round(finite, _DIGITS)
