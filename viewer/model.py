"""What a gallery shows, as plain values: no table, no file, no model behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GalleryExpression:
    """One candidate expression with its scores; see `tables.EXPRESSIONS_SCHEMA` for what each says.

    Attributes:
        rival_index: Index of the mask that competes with the target; None for a mask alone in its image.
    """

    text: str
    head_noun: str | None
    count: int
    uniqueness: float | None
    correctness: float | None
    distinctiveness: float | None
    rival_index: int | None
    kept: bool


@dataclass(frozen=True, slots=True)
class GalleryMask:
    """One mask and its candidates.

    Attributes:
        index: Position in the proposer's order, the digits that end the mask id.
        rle_size: (height, width) of the upright image.
        rle_counts: COCO compressed run-length encoding.
        area_px: Number of pixels.
        predicted_iou: The proposer's own estimate; None where it has none.
        expressions: In the tables' order.
    """

    index: int
    rle_size: tuple[int, int]
    rle_counts: str
    area_px: int
    predicted_iou: float | None = None
    expressions: tuple[GalleryExpression, ...] = ()


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image that was annotated, or in which no mask survived.

    Attributes:
        key: Percent-encoded key relative to SOURCE.
        height: Upright height in pixels.
        width: Upright width in pixels.
        data: The encoded image; None where it cannot be read any more, which the page then says.
        masks: In the proposer's order.
    """

    key: str
    height: int
    width: int
    data: bytes | None = None
    masks: tuple[GalleryMask, ...] = ()


@dataclass(frozen=True, slots=True)
class QuarantinedImage:
    """One image that was set aside, and why; `reason` is a code of `tables.FAILURE_REASONS`."""

    key: str
    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GallerySummary:
    """The run in numbers; counts are of the whole run, whatever the page shows of it.

    Attributes:
        source: SOURCE as given.
        tau: Threshold that a kept candidate's distinctiveness exceeds.
        images: Committed; annotated + empty + quarantined.
        candidates: Expression rows, kept or not.
        seconds: Wall seconds by stage, summed over shards.
        is_complete: Whether every planned shard is committed.
    """

    source: str
    tau: float
    images: int
    annotated: int
    empty: int
    quarantined: int
    masks: int
    candidates: int
    kept: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class Gallery:
    """A page's content.

    Attributes:
        images: Read once, one after another, so that a page of a thousand images needs the memory of one.
        num_images: How many `images` holds.
        quarantined: Read once.
    """

    summary: GallerySummary
    images: Iterable[GalleryImage]
    num_images: int
    quarantined: Iterable[QuarantinedImage] = ()
