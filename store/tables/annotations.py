"""A run's tables as objects in plan order: images hold masks, masks expressions. For most rooms that read runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import pyarrow.compute as pc

from pseudoris.schemas.ids import mask_index
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, STATUS_QUARANTINED
from pseudoris.store.tables.open_run import CommittedShard, JoinedTables, places_by_mask
from pseudoris.store.tables.parts import RowFilter

_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "sha256", "split")


# Only these columns of an expression are read. The other fields of a record keep their defaults.
_EXPRESSION_COLUMNS: Final = (
    *("target_mask_ids", "text", "kind", "head_noun", "source", "kept", "weight"),
    *("uniqueness", "correctness", "distinctiveness"),
)
_TILE_COLUMNS: Final = ("phash", "picture", "picture_size", "tile_xyxy_px", "picture_sha256", "picture_phash")
SHARD_COLUMNS: Final = {
    IMAGES: (*_IMAGE_COLUMNS, "status", "num_too_small", "whole_picture"),
    EXPRESSIONS: ("image_id", *(field.name for field in fields(ExpressionRecord))),
}


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
    picture: str | None = None
    picture_size: Sequence[int] | None = None
    tile_xyxy_px: Sequence[int] | None = None
    split: str | None = None
    phash: str | None = None
    picture_sha256: str | None = None
    picture_phash: str | None = None


def iter_annotations(
    shards: Iterable[CommittedShard], *, kept_only: bool = False, with_bytes: bool = False, with_samples: bool = False
) -> Iterator[AnnotatedImage]:
    """Yield the images that are not quarantined, in plan order; memory is bounded by one shard.

    Args:
        shards: In this order, such as `OpenRun.shards()`.
        kept_only: Leave out expressions that were not kept; the masks stay.
        with_bytes: Read the embedded bytes too.
        with_samples: Read every draw of each expression too.
    """
    columns = (*_IMAGE_COLUMNS, *_TILE_COLUMNS, *(["bytes"] if with_bytes else []))
    names = (*_EXPRESSION_COLUMNS, "samples") if with_samples else _EXPRESSION_COLUMNS
    rows = RowFilter(pc.field("kept"), ("kept",)) if kept_only else None
    for shard in shards:
        for row, masks, expressions in shard.joined(columns, None, names, said_rows=rows).rows():
            said = [_expression(each) for each in expressions]
            ids, targets = (each["mask_id"] for each in masks), (each.target_mask_ids for each in said)
            places = places_by_mask(ids, targets, where=str(shard))
            yield AnnotatedImage(
                shard=shard.receipt.shard,
                data=row.pop("bytes", None),
                **row,
                masks=tuple(
                    AnnotatedMask(**mask_fields(each), expressions=tuple(said[at] for at in places[each["mask_id"]]))
                    for each in masks
                ),
                untargeted=tuple(each for each in said if not each.target_mask_ids),
            )


def shard_images(joined: JoinedTables) -> Iterator[ShardImage]:
    """Yield the images that are not quarantined as the filter stage left them, without bytes.

    `joined` has `SHARD_COLUMNS`, and all columns of the masks.
    """
    shown = (each for each in joined.rows() if each[0]["status"] != STATUS_QUARANTINED)
    for position, (row, masks, expressions) in enumerate(shown):
        yield ShardImage(
            position,
            **{name: row[name] for name in (*_IMAGE_COLUMNS, "num_too_small")},
            whole_picture=tuple(row["whole_picture"] or ()),
            masks=tuple(MaskRecord(**mask_fields(each)) for each in masks),
            expressions=tuple(map(_expression, expressions)),
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
        "colours": tuple(row["colours"] or ()),
    }
