"""A run's tables as objects: images that hold masks, and masks that hold expressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.ids import mask_index
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table, shown_images

_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "sha256")


# What readers use of an expression; the other fields of a record keep their defaults.
_EXPRESSION_COLUMNS: Final = (
    *("image_id", "target_mask_ids", "text", "kind", "head_noun", "source", "kept", "weight"),
    *("uniqueness", "correctness", "distinctiveness"),
)
_RECORD_COLUMNS: Final = ("image_id", *(field.name for field in fields(ExpressionRecord)))


@dataclass(frozen=True, slots=True)
class AnnotatedMask(MaskRecord):
    """A mask and the expressions that refer to it, in the tables' order."""

    expressions: tuple[ExpressionRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """A committed image that was not quarantined. `tables.IMAGES_SCHEMA` documents the fields that it has.

    Attributes:
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
    untargeted: tuple[ExpressionRecord, ...] = ()


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
    names = (*_EXPRESSION_COLUMNS, "samples") if with_samples else _EXPRESSION_COLUMNS
    for receipt in receipts:
        images = shown_images(location, receipt, columns)
        masks = by_image(read_table(location, MASKS, receipts=[receipt]))
        table = read_table(location, EXPRESSIONS, names, [receipt])
        if kept_only:
            table = table.filter(table["kept"])
        expressions = by_image(table)
        for row in images.to_pylist():
            image = row["image_id"]
            said = [_expression(each) for each in expressions[image]]
            of_mask: defaultdict[str, list[ExpressionRecord]] = defaultdict(list)
            for each in said:
                for mask_id in each.target_mask_ids:
                    of_mask[mask_id].append(each)
            yield AnnotatedImage(
                shard=receipt.shard,
                data=row.pop("bytes", None),
                **row,
                masks=tuple(
                    AnnotatedMask(**mask_fields(each), expressions=tuple(of_mask[each["mask_id"]]))
                    for each in masks[image]
                ),
                untargeted=tuple(each for each in said if not each.target_mask_ids),
            )


def by_image(table: pa.Table) -> defaultdict[str, list[dict[str, Any]]]:
    """Return the rows of a table by their `image_id`, which is taken out of them."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        found[row.pop("image_id")].append(row)
    return found


def shard_images(images: pa.Table, masks: pa.Table, expressions: pa.Table) -> Iterator[ShardImage]:
    """Yield the images of a shard's whole tables as the filter stage left them, without bytes, none quarantined."""
    masks_of, said = by_image(masks), by_image(expressions.select(_RECORD_COLUMNS))
    shown = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED)).select(_IMAGE_COLUMNS)
    for position, row in enumerate(shown.to_pylist()):
        image = row["image_id"]
        yield ShardImage(
            position,
            **row,
            masks=tuple(MaskRecord(**mask_fields(each)) for each in masks_of[image]),
            expressions=tuple(map(_expression, said[image])),
        )


def _expression(row: dict[str, Any]) -> ExpressionRecord:
    targets = tuple(row.pop("target_mask_ids"))
    samples = (CaptionSample(**{**each, "other_masks": tuple(each["other_masks"])}) for each in row.pop("samples", ()))
    return ExpressionRecord(target_mask_ids=targets, samples=tuple(samples), **row)


def mask_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `MaskRecord` from a row of the masks table without its `image_id`."""
    segmentation = row["segmentation"]
    return {
        **{name: value for name, value in row.items() if name != "segmentation"},
        "index": mask_index(row["mask_id"]),
        "rle_size": tuple(segmentation["size"]),
        "rle_counts": segmentation["counts"],
        "box_xyxy_px": tuple(row["box_xyxy_px"]),
    }
