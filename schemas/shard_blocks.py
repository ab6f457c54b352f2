"""A shard as one Arrow block: the form in which it moves between the stages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import pyarrow as pa

from pseudoris.schemas.record_arrays import from_array, to_array
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
        # From here to `fault` only in the first row: a block that was cut lacks it, and a merged one has it twice.
        ("planned_ids", pa.list_(pa.string())),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("nodes", pa.list_(pa.string())),
        ("degraded", pa.map_(pa.string(), pa.int64())),
        ("mixed", pa.list_(pa.string())),
        ("is_committed", pa.bool_()),
        ("fault", FAULT),
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
# The dataclass of each struct, by the name of its column or field.
_RECORDS: Final[Mapping[str, type]] = {
    "fault": ShardFault,
    "failure": Failure,
    "masks": MaskRecord,
    "expressions": ExpressionRecord,
    "samples": CaptionSample,
}
_SHARD_COLUMNS: Final = ("planned_ids", "seconds", "nodes", "degraded", "mixed", "is_committed", "fault")
_IMAGE_COLUMNS: Final = tuple(field.name for field in fields(ShardImage))


def shard_to_block(shard: Shard) -> pa.Table:
    """Return the shard as one Arrow table of `BLOCK_SCHEMA`, a row an image, in plan order.

    A shard without images becomes one row with null image columns, because an engine may drop a block without rows.
    """
    images = shard.images
    num_rows = max(len(images), 1)
    columns: dict[str, Sequence[Any]] = {
        "shard": [shard.shard] * num_rows,
        "generation": [shard.generation] * num_rows,
        **{name: [_of_shard(shard, name)] + [None] * (num_rows - 1) for name in _SHARD_COLUMNS},
        **{name: [getattr(image, name) for image in images] if images else [None] for name in _IMAGE_COLUMNS},
    }
    arrays = [to_array(columns[field.name], field.type) for field in BLOCK_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=BLOCK_SCHEMA)


def block_to_shard(block: pa.Table) -> Shard:
    """Return the shard that `shard_to_block` wrote; images come back in plan order.

    Raises:
        ValueError: The block is empty, or it is not exactly one whole shard: Ray cut or merged it.
    """
    numbers = set(zip(block["shard"].to_pylist(), block["generation"].to_pylist(), strict=True))
    if len(numbers) != 1:
        raise ValueError(f"a block must hold one generation of one shard, got {sorted(numbers)}")
    ((number, generation),) = numbers
    firsts = [row for row, is_first in enumerate(block["planned_ids"].is_valid().to_pylist()) if is_first]
    if len(firsts) != 1:
        raise ValueError(
            f"a block of shard {number} names the planned images {len(firsts)} times instead of once: "
            "it was cut or merged"
        )
    first = {name: _values(block.slice(firsts[0], 1), name)[0] for name in _SHARD_COLUMNS}
    rows = zip(*(_values(block, name) for name in _IMAGE_COLUMNS), strict=True)
    images = [image for image in itertools.starmap(ShardImage, rows) if image.position is not None]
    return Shard(
        shard=number,
        generation=generation,
        images=tuple(sorted(images, key=lambda image: image.position)),
        **{**first, "seconds": dict(first["seconds"]), "degraded": dict(first["degraded"])},
    )


def _of_shard(shard: Shard, name: str) -> Any:
    value = getattr(shard, name)
    # Arrow builds a map from pairs.
    return list(value.items()) if isinstance(value, Mapping) else value


def _values(block: pa.Table, name: str) -> list[Any]:
    # One chunk, except after a concatenation.
    return from_array(pa.concat_arrays(block[name].chunks), name, _RECORDS)
