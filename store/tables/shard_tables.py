"""Converts a finished shard to the four tables of `pseudoris.schemas.tables`, and those to bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pseudoris.schemas.run_records import ShardCounts
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.schemas.tables import (
    EXPRESSIONS,
    FAILURES,
    IMAGES,
    MASKS,
    SCHEMAS,
    STATUS_ANNOTATED,
    STATUS_EMPTY,
    STATUS_QUARANTINED,
)
from pseudoris.store.tables.parquet_files import ROW_GROUP_SIZE, parquet_bytes


def shard_tables(shard: Shard, *, embed_images: bool) -> dict[str, pa.Table]:
    """Return the tables of `tables.SCHEMAS` by name; rows keep the order of the shard's records.

    Args:
        shard: The shard after the last stage.
        embed_images: Whether the images table holds the encoded bytes (null for quarantined images).
    """
    images = shard.images
    rows: dict[str, list[dict[str, Any]]] = {
        IMAGES: [_image_row(image, embed_images=embed_images) for image in images],
        MASKS: [_mask_row(image, mask) for image in images for mask in image.masks],
        EXPRESSIONS: [_expression_row(image, each) for image in images for each in image.expressions],
        FAILURES: [{"image_id": image.image_id, **asdict(image.failure)} for image in images if image.failure],
    }
    return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in SCHEMAS.items()}


def table_bytes(table: pa.Table) -> bytes:
    """Return the table as Parquet; equal content gives equal bytes, however the table is divided into chunks."""
    starts = range(0, table.num_rows, ROW_GROUP_SIZE)
    return parquet_bytes((table.slice(start, ROW_GROUP_SIZE) for start in starts), table.schema)


def counts_of(shard: Shard) -> ShardCounts:
    """Return the counts of the shard, for its receipt."""
    status = Counter(status_of(image) for image in shard.images)
    expressions = [each for image in shard.images for each in image.expressions]
    reasons = Counter(image.failure.reason for image in shard.images if image.failure)
    return ShardCounts(
        images=len(shard.images),
        annotated=status[STATUS_ANNOTATED],
        empty=status[STATUS_EMPTY],
        quarantined=status[STATUS_QUARANTINED],
        masks=sum(len(image.masks) for image in shard.images),
        expressions=len(expressions),
        samples=sum(len(each.samples) for each in expressions),
        kept=sum(each.kept for each in expressions),
        reasons=dict(sorted(reasons.items())),
    )


def status_of(image: ShardImage) -> str:
    """Return the status of the image: quarantined, annotated or empty."""
    if image.failure is not None:
        return STATUS_QUARANTINED
    return STATUS_ANNOTATED if image.masks else STATUS_EMPTY


def _image_row(image: ShardImage, *, embed_images: bool) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "key": image.key,
        "height": image.height,
        "width": image.width,
        "status": status_of(image),
        "sha256": image.sha256,
        "bytes": image.data if embed_images and image.failure is None else None,
    }


def _mask_row(image: ShardImage, mask: MaskRecord) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "mask_id": mask.mask_id,
        "segmentation": {"size": list(mask.rle_size), "counts": mask.rle_counts},
        "box_xyxy_px": list(mask.box_xyxy_px),
        "area_px": mask.area_px,
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "prior": mask.prior,
    }


def _expression_row(image: ShardImage, expression: ExpressionRecord) -> dict[str, Any]:
    first = expression.samples[0] if expression.samples else None
    return {
        "image_id": image.image_id,
        "target_mask_ids": list(expression.target_mask_ids),
        "text": expression.text,
        "kind": expression.kind,
        "head_noun": expression.head_noun,
        "source": expression.source,
        **{name: getattr(first, name, None) for name in ("decoder", "top_k", "top_p", "crop", "log_prob")},
        "count": len(expression.samples),
        "samples": [asdict(sample) for sample in expression.samples],
        "uniqueness": expression.uniqueness,
        "correctness": expression.correctness,
        "distinctiveness": expression.distinctiveness,
        "rival_mask_id": expression.rival_mask_id,
        "caption_score": expression.caption_score,
        "listener": expression.listener,
        "truth": expression.truth,
        "confidence": expression.confidence,
        "rank": expression.rank,
        "kept": expression.kept,
        "weight": expression.weight,
    }
