"""Converts records to Arrow arrays and back, column by column.

A struct's fields are the record's attributes of the same names. `dataclasses.asdict` and a list of dictionaries would
do the same: they copy every value and build a dictionary a record, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate, chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def to_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return `values` as an array of `kind`: a struct is made of a record, a list of a sequence, null of None.

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
    if _is_list(kind) and pa.types.is_struct(kind.value_type):
        lists = [value or () for value in values]
        ends = accumulate(map(len, lists), initial=0)
        records = to_array(list(chain.from_iterable(lists)), kind.value_type)
        is_large = pa.types.is_large_list(kind)
        offsets = pa.array(ends, pa.int64() if is_large else pa.int32())
        return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(offsets, records, type=kind)
    return pa.array(values, kind)


def from_array(array: pa.Array, name: str, classes: Mapping[str, type]) -> list[Any]:
    """Return the values that `to_array` was given; a list becomes a tuple, a null list an empty one.

    Args:
        array: The column or field `name`.
        name: Decides the class of the records, in lists too.
        classes: A dataclass for each name whose type has a struct.
    """
    if pa.types.is_struct(array.type):
        columns = dict(zip(array.type.names, array.flatten(), strict=True))
        record = classes[name]
        values = [from_array(columns[field.name], field.name, classes) for field in fields(record)]
        is_valid = array.is_valid().to_pylist()
        return [record(*row) if valid else None for valid, row in zip(is_valid, zip(*values, strict=True), strict=True)]
    if _is_list(array.type):
        items = iter(from_array(array.flatten(), name, classes))
        return [tuple(islice(items, length or 0)) for length in pc.list_value_length(array).to_pylist()]
    values_: list[Any] = array.to_pylist()
    return values_


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
