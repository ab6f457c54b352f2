"""A shard as one Arrow block: the form in which `pipeline` moves it between the stages.

A block is one row, which no engine can cut, of two columns: the records as an Arrow message, and the images' bytes. Ray
takes nested columns apart in Python, array by array, for each block that it passes on: 3.3 ms for the columns of the
records, 0.1 ms for their message (measured, a shard of 100 images). Called by `pipeline`, `store` and `workers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate, chain, islice, starmap
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.shard import (
    CaptionSample,
    ExpressionRecord,
    Failure,
    MaskRecord,
    Shard,
    ShardFault,
    ShardImage,
)
from pseudoris.schemas.tables import PLAN_SCHEMA, SCHEMAS


def to_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return `values` as an array of `kind`: a struct of a record, a list of a sequence, a map of a dict, null of None.

    None where a list of records is expected becomes an empty list.

    Raises:
        AttributeError: A record lacks a field of its struct.
    """
    if pa.types.is_struct(kind):
        is_null = [value is None for value in values]
        columns = [
            to_array([None if value is None else getattr(value, field.name) for value in values], field.type)
            for field in kind.fields
        ]
        return pa.StructArray.from_arrays(columns, fields=kind.fields, mask=pa.array(is_null, pa.bool_()))
    is_large = pa.types.is_large_list(kind)
    if (is_large or pa.types.is_list(kind)) and pa.types.is_struct(kind.value_type):
        lists = [value or () for value in values]
        ends = accumulate(map(len, lists), initial=0)
        records = to_array(list(chain.from_iterable(lists)), kind.value_type)
        offsets = pa.array(ends, pa.int64() if is_large else pa.int32())
        return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(offsets, records, type=kind)
    if pa.types.is_map(kind):
        values = [None if value is None else list(value.items()) for value in values]
    return pa.array(values, kind)


def from_array(array: pa.Array, name: str) -> list[Any]:
    """Return the values that `to_array` was given; a list becomes a tuple, a null list an empty one.

    `_CLASSES` has the dataclass of the records of each column or field `name` whose type has a struct, in lists too.
    """
    if pa.types.is_struct(array.type):
        columns = dict(zip(array.type.names, array.flatten(), strict=True))
        record = _CLASSES[name]
        values = [from_array(columns[field.name], field.name) for field in fields(record)]
        is_valid = array.is_valid().to_pylist()
        return [record(*row) if valid else None for valid, row in zip(is_valid, zip(*values, strict=True), strict=True)]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        items = iter(from_array(array.flatten(), name))
        return [tuple(islice(items, length or 0)) for length in pc.list_value_length(array).to_pylist()]
    values_: list[Any] = array.to_pylist()
    return [None if each is None else dict(each) for each in values_] if pa.types.is_map(array.type) else values_


# Maps a field of a record to its Arrow type. A field named as a column of the tables has the column's type.
_TYPES: Final[dict[str, pa.DataType]] = {
    **{column.name: column.type for schema in (PLAN_SCHEMA, *SCHEMAS.values()) for column in schema},
    **{"index": pa.int32(), "rle_size": pa.list_(pa.int32()), "rle_counts": pa.large_string()},
    "notice": pa.string(),
    **dict.fromkeys(("is_config", "is_proven", "is_committed"), pa.bool_()),
    **dict.fromkeys(("planned_ids", "nodes", "mixed"), pa.list_(pa.string())),
    "generation": pa.int32(),
    "levels": pa.list_(pa.float64()),
    **dict.fromkeys(("long_texts", "decisions", "wide_decisions"), pa.int64()),
    "masks_left": pa.map_(pa.string(), pa.int64()),
    "seconds": pa.map_(pa.string(), pa.float64()),
    # Values are JSON: numbers and names.
    "degraded": pa.map_(pa.string(), pa.string()),
}


def _struct(record: type) -> pa.DataType:
    return pa.struct([(field.name, _TYPES[field.name]) for field in fields(record)])


FAULT: Final = _struct(ShardFault)
_TYPES.update(fault=FAULT, failure=_struct(Failure))
# A column of the tables has the name `prior` too, of another type.
_TYPES.update(masks=pa.large_list(_struct(MaskRecord)), expressions=pa.large_list(_struct(ExpressionRecord)))
_SHARD_COLUMNS: Final = tuple(field.name for field in fields(Shard) if field.name != "images")
_IMAGE_COLUMNS: Final = tuple(field.name for field in fields(ShardImage))
# The columns of the shard have a value only in the first row of a block's records.
_RECORDS_SCHEMA: Final = pa.schema(
    [(name, _TYPES[name]) for name in (*_SHARD_COLUMNS, *_IMAGE_COLUMNS) if name != "data"]
)
# The types are `large_*`, because a `binary` column overflows at 2 GiB per block (measured on Ray Data 2.60).
BLOCK_SCHEMA: Final = pa.schema([("records", pa.large_binary()), ("data", pa.large_list(pa.large_binary()))])
# Maps the name of a column or field to the dataclass that its Arrow struct becomes.
_CLASSES: Final[Mapping[str, type]] = {
    "fault": ShardFault,
    "failure": Failure,
    "masks": MaskRecord,
    "expressions": ExpressionRecord,
    "samples": CaptionSample,
}


def shard_to_block(shard: Shard) -> pa.Table:
    """Return the shard as one Arrow table of `BLOCK_SCHEMA`, which is one row."""
    images = shard.images
    num_others = max(len(images) - 1, 0)
    values = {name: getattr(shard, name) for name in _SHARD_COLUMNS}
    values["degraded"] = {name: json.dumps(value) for name, value in shard.degraded.items()}
    # Each image has a row, in plan order. A shard without images has one row with null image columns.
    columns: dict[str, Sequence[Any]] = {
        **{name: [value] + [None] * num_others for name, value in values.items()},
        **{name: [getattr(image, name) for image in images] or [None] for name in _IMAGE_COLUMNS},
    }
    arrays = [to_array(columns[field.name], field.type) for field in _RECORDS_SCHEMA]
    # The serialized batch leaves out the schema, because both ends know it.
    message = pa.RecordBatch.from_arrays(arrays, schema=_RECORDS_SCHEMA).serialize()
    return pa.table({"records": [memoryview(message)], "data": [[image.data for image in images]]}, BLOCK_SCHEMA)


def block_to_shard(block: pa.Table) -> Shard:
    """Return the shard that `shard_to_block` wrote; images come back in plan order.

    Raises:
        ValueError: The block is not exactly one row: Ray merged it, or cut it.
    """
    if block.num_rows != 1:
        raise ValueError(f"a block must hold one shard, which is one row, got {block.num_rows} rows")
    records = pa.ipc.read_record_batch(block["records"][0].as_buffer(), _RECORDS_SCHEMA)
    first = {name: from_array(records[name][:1], name)[0] for name in _SHARD_COLUMNS}
    columns = {name: from_array(records[name], name) for name in _IMAGE_COLUMNS if name != "data"}
    # A shard without images still has one record, which holds the shard's own columns.
    columns["data"] = block["data"][0].as_py() or [b""]
    rows = zip(*(columns[name] for name in _IMAGE_COLUMNS), strict=True)
    images = tuple(image for image in starmap(ShardImage, rows) if image.position is not None)
    degraded = {name: parse_json(value) for name, value in first["degraded"].items()}
    return Shard(**{**first, "images": images, "degraded": degraded})
