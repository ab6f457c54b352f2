"""From an image with its masks and candidates to what its card on the page says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from viewer.model import GalleryExpression, GalleryImage, GalleryMask
from viewer.outlines import Outline, frame_size, outline_of
from viewer.thumbnails import thumbnail_uri

# Hues in degrees of OKLCH, ordered so that neighbours in the list differ most; then once more, darker.
_HUES: Final = (28, 250, 142, 85, 320, 200, 55, 285, 115, 0, 225, 170)
_LIGHTNESSES: Final = (0.74, 0.6, 0.86)


@dataclass(frozen=True, slots=True)
class ExpressionRow:
    """One candidate as text for the page; `before` + `head` + `after` is the expression.

    Attributes:
        distinctiveness: As a number, for sorting and for scripts; None for a mask alone in its image.
        meter_percent: Distinctiveness on a scale on which τ stands at 50.
        reason: Why it was rejected; empty for a kept one.
        rival_index: The competing mask; None for a mask alone.
    """

    before: str
    head: str
    after: str
    count: int
    scores: tuple[str, str, str]
    distinctiveness: float | None
    meter_percent: float | None
    reason: str
    rival_index: int | None


@dataclass(frozen=True, slots=True)
class MaskCard:
    """One mask on a card; `kept` and `rejected` best first. No outline where its encoding is damaged."""

    index: int
    colour: str
    outline: Outline | None
    area_percent: float
    predicted_iou: float | None
    kept: tuple[ExpressionRow, ...]
    rejected: tuple[ExpressionRow, ...]


@dataclass(frozen=True, slots=True)
class ImageCard:
    """One image on the page; sizes in the page's units."""

    key: str
    name: str
    pixels: str
    thumbnail: str | None
    width: float
    height: float
    masks: tuple[MaskCard, ...]
    num_kept: int
    num_candidates: int


def image_card(image: GalleryImage, *, tau: float) -> ImageCard:
    """Return the card of an image; `tau` is the run's threshold."""
    masks = tuple(_mask_card(mask, order=order, tau=tau) for order, mask in enumerate(image.masks))
    height, width = frame_size(image.height, image.width)
    return ImageCard(
        key=image.key,
        name=unquote(image.key),
        pixels=f"{image.width} × {image.height}",
        thumbnail=thumbnail_uri(image.data) if image.data else None,
        width=round(width, 1),
        height=round(height, 1),
        masks=masks,
        num_kept=sum(len(mask.kept) for mask in masks),
        num_candidates=sum(len(mask.expressions) for mask in image.masks),
    )


def mask_colour(order: int) -> str:
    """Return the CSS colour of the mask at `order` on its card: the first 36 differ."""
    round_number, place = divmod(order, len(_HUES))
    lightness = _LIGHTNESSES[round_number % len(_LIGHTNESSES)]
    return f"oklch({lightness} 0.17 {_HUES[place]})"


def rejection(distinctiveness: float | None, rival_index: int | None, *, tau: float) -> str:
    """Return in words why a candidate was rejected."""
    if distinctiveness is None or rival_index is None:
        return "not scored"
    if distinctiveness < 1:
        return f"fits mask {rival_index} better"
    if distinctiveness == 1:
        return f"fits mask {rival_index} as well"
    return f"ahead of mask {rival_index}, but {tau - distinctiveness:.2g} short of τ = {tau:g}"


def _mask_card(mask: GalleryMask, *, order: int, tau: float) -> MaskCard:
    try:
        outline = outline_of(mask.rle_counts, mask.rle_size)
    except ValueError:
        outline = None  # `verify` is what reports it; the page shows the rest
    ordered = sorted(mask.expressions, key=_rank, reverse=True)
    return MaskCard(
        index=mask.index,
        colour=mask_colour(order),
        outline=outline,
        area_percent=100 * mask.area_px / max(1, mask.rle_size[0] * mask.rle_size[1]),
        predicted_iou=mask.predicted_iou,
        kept=tuple(_row(e, tau=tau) for e in ordered if e.kept),
        rejected=tuple(_row(e, tau=tau) for e in ordered if not e.kept),
    )


def _rank(expression: GalleryExpression) -> tuple[float, float]:
    # A mask alone in its image has no distinctiveness: correctness ranks it.
    return expression.distinctiveness or 0.0, expression.correctness or 0.0


def _row(expression: GalleryExpression, *, tau: float) -> ExpressionRow:
    before, head, after = _around_head(expression.text, expression.head_noun)
    d = expression.distinctiveness
    scores = (expression.uniqueness, expression.correctness, d)
    return ExpressionRow(
        before=before,
        head=head,
        after=after,
        count=expression.count,
        scores=(_number(scores[0]), _number(scores[1]), _number(scores[2])),
        distinctiveness=d,
        meter_percent=None if d is None else round(min(100.0, 50 * d / (tau or 1.0)), 1),
        reason="" if expression.kept else rejection(d, expression.rival_index, tau=tau),
        rival_index=expression.rival_index,
    )


def _around_head(text: str, head: str | None) -> tuple[str, str, str]:
    """The text cut before and behind its head noun; all of it before where there is none."""
    found = re.search(rf"(?<!\w){re.escape(head)}(?!\w)", text) if head else None
    if found is None:
        return text, "", ""
    return text[: found.start()], found[0], text[found.end() :]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
