"""A run's tables as objects: images that hold masks, and masks that hold expressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import pyarrow.compute as pc

from pseudoris.schemas.ids import mask_index
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table

_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "status", "sha256")


@dataclass(frozen=True, slots=True)
class AnnotatedExpression:
    """A candidate expression. `tables.EXPRESSIONS_SCHEMA` documents each field; `samples` only where they were read."""

    target_mask_ids: tuple[str, ...]
    text: str
    kind: str
    head_noun: str | None
    source: str
    decoder: str | None
    top_k: int | None
    top_p: float | None
    crop: str | None
    count: int
    log_prob: float | None
    uniqueness: float | None
    correctness: float | None
    distinctiveness: float | None
    rival_mask_id: str | None
    kept: bool
    weight: float
    samples: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotatedMask:
    """A mask and the expressions that refer to it, in the tables' order.

    Attributes:
        mask_id: Image id and index in the proposer's order.
        rle_size: (height, width) of the upright image.
        rle_counts: COCO compressed run-length encoding.
        box_xyxy_px: Tight box; x1 and y1 are exclusive.
    """

    mask_id: str
    rle_size: tuple[int, int]
    rle_counts: str
    box_xyxy_px: tuple[int, int, int, int]
    area_px: int
    predicted_iou: float | None
    stability_score: float | None
    prior: str
    expressions: tuple[AnnotatedExpression, ...] = ()

    @property
    def index(self) -> int:
        """Position in the proposer's order."""
        return mask_index(self.mask_id)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """A committed image that was not quarantined.

    Attributes:
        key: Percent-encoded key relative to SOURCE.
        height: Upright height in pixels, as the width.
        sha256: Digest of the encoded bytes.
        data: The encoded bytes; None unless the run embeds them and `with_bytes` was set.
        masks: In the proposer's order; none in an empty image.
        untargeted: Expressions that refer to no mask.
    """

    shard: int
    image_id: str
    key: str
    height: int
    width: int
    sha256: str
    data: bytes | None
    masks: tuple[AnnotatedMask, ...]
    untargeted: tuple[AnnotatedExpression, ...] = ()


def iter_annotations(
    location: RunLocation,
    receipts: Iterable[Receipt],
    *,
    kept_only: bool = False,
    with_bytes: bool = False,
    with_samples: bool = False,
) -> Iterator[AnnotatedImage]:
    """Yield the images that are not quarantined, in plan order; memory is bounded by one shard.

    Args:
        location: The run's folder.
        receipts: The shards to read, in this order. `pseudoris.store.runs.receipts.latest_receipts` gives all.
        kept_only: Leave out expressions that were not kept; the masks stay.
        with_bytes: Read the embedded bytes too.
        with_samples: Read every draw of each expression too.
    """
    columns = (*_IMAGE_COLUMNS, "bytes") if with_bytes else _IMAGE_COLUMNS
    names = [each.name for each in fields(AnnotatedExpression) if with_samples or each.name != "samples"]
    for receipt in receipts:
        images = read_table(location, IMAGES, columns, [receipt])
        masks = _by_image(read_table(location, MASKS, receipts=[receipt]).to_pylist())
        table = read_table(location, EXPRESSIONS, ["image_id", *names], [receipt])
        if kept_only:
            table = table.filter(table["kept"])
        expressions = _by_image(table.to_pylist())
        for row in images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED)).to_pylist():
            image = row["image_id"]
            said = [_expression(each) for each in expressions[image]]
            yield AnnotatedImage(
                shard=receipt.shard,
                image_id=image,
                key=row["key"],
                height=row["height"],
                width=row["width"],
                sha256=row["sha256"],
                data=row.get("bytes"),
                masks=tuple(_masks(masks[image], said)),
                untargeted=tuple(each for each in said if not each.target_mask_ids),
            )


def _by_image(rows: list[dict[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row.pop("image_id")].append(row)
    return found


def _expression(row: dict[str, Any]) -> AnnotatedExpression:
    targets = tuple(row.pop("target_mask_ids"))
    source = row.pop("source")
    samples = tuple(row.pop("samples", ()))
    return AnnotatedExpression(target_mask_ids=targets, source=source, samples=samples, **row)


def _masks(masks: list[dict[str, Any]], expressions: list[AnnotatedExpression]) -> Iterator[AnnotatedMask]:
    of_mask: defaultdict[str, list[AnnotatedExpression]] = defaultdict(list)
    for expression in expressions:
        for mask_id in expression.target_mask_ids:
            of_mask[mask_id].append(expression)
    for row in masks:
        segmentation, box = row.pop("segmentation"), row.pop("box_xyxy_px")
        yield AnnotatedMask(
            **row,
            rle_size=tuple(segmentation["size"]),
            rle_counts=segmentation["counts"],
            box_xyxy_px=tuple(box),
            expressions=tuple(of_mask[row["mask_id"]]),
        )
