"""Converts a shard to four tables and their bytes: equal shard, equal bytes. For `store`, `pipeline`, `interchange`."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.parquet_files import ROW_GROUP_SIZE, open_parquet, parquet_bytes
from pseudoris.schemas.shard import ExpressionRecord, Shard
from pseudoris.schemas.shard_blocks import to_array
from pseudoris.schemas.tables import (
    EXPRESSIONS,
    FAILURES,
    IMAGES,
    MASKS,
    SCHEMAS,
    SCHEMAS_OF_5,
    STATUS_ANNOTATED,
    STATUS_EMPTY,
    STATUS_QUARANTINED,
)
from pseudoris.store.tables.judged_expressions import num_kept_lone

_IMAGE_FIELDS: Final = (
    *("image_id", "key", "height", "width", "sha256", "note", "split", "phash"),
    *("picture", "picture_sha256", "picture_phash", "num_too_small"),
)
# An empty list of a record is a null.
_LISTS_OF_IMAGES: Final = ("picture_size", "tile_xyxy_px", "whole_picture")
_MASK_FIELDS: Final = ("mask_id", "box_xyxy_px", "area_px", "predicted_iou", "stability_score", "prior", "is_cut")
_EXPRESSION_FIELDS: Final = tuple(field.name for field in fields(ExpressionRecord))


class _Segmentation(NamedTuple):
    """A mask as COCO names it."""

    size: tuple[int, int]
    counts: str


def shard_tables(shard: Shard, *, embed_images: bool) -> dict[str, pa.Table]:
    """Return the tables of `tables.SCHEMAS` by name; rows keep the order of the shard's records.

    Args:
        shard: The shard after the last stage.
        embed_images: Whether the images table holds the encoded bytes (null for quarantined images).
    """
    images = shard.images
    masks = [mask for image in images for mask in image.masks]
    expressions = [each for image in images for each in image.expressions]
    firsts = [each.samples[0] if each.samples else None for each in expressions]
    of_first = ("decoder", "top_k", "top_p", "crop", "log_prob")
    columns: dict[str, dict[str, Sequence[Any]]] = {
        IMAGES: {
            **_columns(images, _IMAGE_FIELDS),
            **{name: [getattr(image, name) or None for image in images] for name in _LISTS_OF_IMAGES},
            "status": [
                STATUS_QUARANTINED if image.failure else STATUS_ANNOTATED if image.masks else STATUS_EMPTY
                for image in images
            ],
            "bytes": [image.data if embed_images and image.failure is None else None for image in images],
        },
        MASKS: {
            "image_id": [image.image_id for image in images for _ in image.masks],
            **_columns(masks, _MASK_FIELDS),
            "colours": [mask.colours or None for mask in masks],
            "segmentation": [_Segmentation(mask.rle_size, mask.rle_counts) for mask in masks],
        },
        EXPRESSIONS: {
            "image_id": [image.image_id for image in images for _ in image.expressions],
            **_columns(expressions, _EXPRESSION_FIELDS),
            **{name: [getattr(first, name, None) for first in firsts] for name in of_first},
            "count": [len(each.samples) for each in expressions],
        },
        FAILURES: {
            "image_id": [image.image_id for image in images if image.failure],
            **_columns([image.failure for image in images if image.failure], ("stage", "reason", "message")),
        },
    }
    return {
        name: pa.Table.from_arrays([to_array(columns[name][field.name], field.type) for field in schema], schema=schema)
        for name, schema in SCHEMAS.items()
    }


def table_bytes(table: pa.Table) -> bytes:
    """Return the table as Parquet; equal content gives equal bytes, however the table is divided into chunks."""
    starts = range(0, table.num_rows, ROW_GROUP_SIZE)
    return parquet_bytes((table.slice(start, ROW_GROUP_SIZE) for start in starts), table.schema)


def bytes_of_version_5(table: str, data: bytes) -> bytes:
    """Return a part as versions 0.5 and 0.6 wrote it: without the columns and texts that came after them."""
    found = open_parquet(io.BytesIO(data), table).read(columns=SCHEMAS_OF_5[table].names, use_threads=False)
    return table_bytes(found.cast(SCHEMAS_OF_5[table]))


def texts_in_splits(texts: pa.Table, images: pa.Table) -> pa.Table:
    """Return texts with the splits of their images, which have some."""
    places = pc.index_in(texts["image_id"], value_set=images["image_id"].combine_chunks())
    at = texts.schema.get_field_index("split")
    return texts.set_column(at, texts.schema.field(at), images["split"].take(places))


def table_counts(tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Return what the tables of a shard hold, as the fields of `ShardCounts`."""
    images, expressions = tables[IMAGES], tables[EXPRESSIONS]
    status = Counter(images["status"].to_pylist())
    return {
        "images": images.num_rows,
        **{name: status[name] for name in (STATUS_ANNOTATED, STATUS_EMPTY, STATUS_QUARANTINED)},
        "masks": tables[MASKS].num_rows,
        "expressions": expressions.num_rows,
        "samples": pc.sum(expressions["count"], min_count=0).as_py(),
        "kept": pc.sum(expressions["kept"], min_count=0).as_py(),
        "kept_lone": num_kept_lone(expressions),
        "reasons": dict(sorted(Counter(tables[FAILURES]["reason"].to_pylist()).items())),
    }


def _columns(records: Sequence[Any], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    return {name: [getattr(record, name) for record in records] for name in names}
