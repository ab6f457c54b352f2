"""A shard as one Arrow block: the form in which it moves between the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa

from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardFault, ShardImage

_SAMPLE = pa.struct(
    [
        ("crop", pa.string()),
        ("decoder", pa.string()),
        ("top_k", pa.int32()),
        ("top_p", pa.float64()),
        ("log_prob", pa.float64()),
        ("others", pa.string()),
        ("num_others", pa.int32()),
        ("other_masks", pa.list_(pa.int32())),
    ]
)
_MASK = pa.struct(
    [
        ("mask_id", pa.string()),
        ("index", pa.int32()),
        ("rle_size", pa.list_(pa.int32())),
        ("rle_counts", pa.large_string()),
        ("box_xyxy_px", pa.list_(pa.int32())),
        ("area_px", pa.int64()),
        ("predicted_iou", pa.float64()),
        ("stability_score", pa.float64()),
        ("prior", pa.string()),
    ]
)
_EXPRESSION = pa.struct(
    [
        ("target_mask_ids", pa.list_(pa.string())),
        ("text", pa.string()),
        ("samples", pa.list_(_SAMPLE)),
        ("kind", pa.string()),
        ("head_noun", pa.string()),
        ("uniqueness", pa.float64()),
        ("correctness", pa.float64()),
        ("distinctiveness", pa.float64()),
        ("rival_mask_id", pa.string()),
        ("caption_score", pa.float64()),
        ("listener", pa.float64()),
        ("truth", pa.float64()),
        ("confidence", pa.float64()),
        ("rank", pa.int32()),
        ("kept", pa.bool_()),
        ("weight", pa.float64()),
        ("source", pa.string()),
    ]
)
FAULT = pa.struct(
    [("shard", pa.int64()), ("message", pa.large_string()), ("is_config", pa.bool_()), ("is_proven", pa.bool_())]
)
# `large_*` types: a `binary` column overflows at 2 GiB a block (measured on Ray Data 2.60).
BLOCK_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("generation", pa.int32()),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("nodes", pa.list_(pa.string())),
        ("degraded", pa.map_(pa.string(), pa.int64())),
        ("mixed", pa.list_(pa.string())),
        ("is_committed", pa.bool_()),
        ("fault", FAULT),
        # Only in the first row: a block that was cut lacks it, and a merged one has it twice.
        ("planned_ids", pa.list_(pa.string())),
        ("position", pa.int32()),
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("data", pa.large_binary()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        (
            "failure",
            pa.struct([("stage", pa.string()), ("reason", pa.string()), ("message", pa.string())]),
        ),
        ("masks", pa.large_list(_MASK)),
        ("expressions", pa.large_list(_EXPRESSION)),
    ]
)


def shard_to_block(shard: Shard) -> pa.Table:
    """Return the shard as one Arrow table of `BLOCK_SCHEMA`, a row an image, in plan order.

    A shard without images becomes one row with null image columns, because an engine may drop a block without rows.
    """
    common = {
        "shard": shard.shard,
        "generation": shard.generation,
        "seconds": list(shard.seconds.items()),
        "nodes": list(shard.nodes),
        "degraded": list(shard.degraded.items()),
        "mixed": list(shard.mixed),
        "is_committed": shard.is_committed,
        "fault": None if shard.fault is None else asdict(shard.fault),
    }
    rows = [{**common, **_image_to_row(image)} for image in shard.images] or [common]
    rows[0]["planned_ids"] = list(shard.planned_ids)
    return pa.Table.from_pylist(rows, schema=BLOCK_SCHEMA)


def block_to_shard(block: pa.Table) -> Shard:
    """Return the shard that `shard_to_block` wrote; images come back in plan order.

    Raises:
        ValueError: The block is empty, or it is not exactly one whole shard: Ray cut or merged it.
    """
    rows = block.to_pylist()
    numbers = {(row["shard"], row["generation"]) for row in rows}
    if len(numbers) != 1:
        raise ValueError(f"a block must hold one generation of one shard, got {sorted(numbers)}")
    first = rows[0]
    planned_ids = [row["planned_ids"] for row in rows if row["planned_ids"] is not None]
    if len(planned_ids) != 1:
        raise ValueError(
            f"a block of shard {first['shard']} names the planned images {len(planned_ids)} times instead of once: "
            "it was cut or merged"
        )
    images = [_row_to_image(row) for row in rows if row["position"] is not None]
    return Shard(
        shard=first["shard"],
        generation=first["generation"],
        images=tuple(sorted(images, key=lambda image: image.position)),
        seconds=dict(first["seconds"]),
        nodes=tuple(first["nodes"]),
        degraded=dict(first["degraded"]),
        mixed=tuple(first["mixed"]),
        is_committed=first["is_committed"],
        planned_ids=tuple(planned_ids[0]),
        fault=None if first["fault"] is None else ShardFault(**first["fault"]),
    )


def _image_to_row(image: ShardImage) -> dict[str, Any]:
    # asdict would deep-copy the encoded bytes; a shallow copy keeps one reference.
    row = {f.name: getattr(image, f.name) for f in fields(image)}
    row["failure"] = asdict(image.failure) if image.failure else None
    row["masks"] = [asdict(mask) for mask in image.masks]
    row["expressions"] = [asdict(expression) for expression in image.expressions]
    return row


def _row_to_image(row: Mapping[str, Any]) -> ShardImage:
    values = {f.name: row[f.name] for f in fields(ShardImage)}
    values["failure"] = Failure(**row["failure"]) if row["failure"] else None
    values["masks"] = tuple(_to_mask(mask) for mask in row["masks"])
    values["expressions"] = tuple(_to_expression(expression) for expression in row["expressions"])
    return ShardImage(**values)


def _to_mask(row: Mapping[str, Any]) -> MaskRecord:
    return MaskRecord(**{**row, "rle_size": tuple(row["rle_size"]), "box_xyxy_px": tuple(row["box_xyxy_px"])})


def _to_expression(row: Mapping[str, Any]) -> ExpressionRecord:
    samples = tuple(
        CaptionSample(**{**sample, "other_masks": tuple(sample["other_masks"])}) for sample in row["samples"]
    )
    return ExpressionRecord(**{**row, "target_mask_ids": tuple(row["target_mask_ids"]), "samples": samples})
