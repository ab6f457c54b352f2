"""Pickles, JSON and Parquet that somebody made to harm: small files that run code, hang a reader or fill its memory."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tests.builders.human import document, image_row, object_row, reference
from tests.builders.sources import parquet_bytes

# Python's hash of an int is its remainder by this: multiples fall into one slot of a dict.
PRIME: Final = 2**61 - 1
NUM_ALIKE: Final = 60_000
_LEVELS: Final = 60
_DEEP: Final = 100_000


class _Call:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self._command,)


def pickles(canary: Path) -> dict[str, bytes]:
    """Return pickles by what they do; those that run code create `canary`."""
    command = f"touch '{canary}'"
    calls = {f"os.system, protocol {n}": pickle.dumps([_Call(command)], n) for n in (0, 2, 4)}
    text = f"__import__('os').system({command!r})"
    named = {
        "eval by GLOBAL": b"cbuiltins\neval\n(X" + _counted(text) + b"tR.",
        "eval by INST": b"(X" + _counted(text) + b"ibuiltins\neval\n.",
        "eval by OBJ": b"(cbuiltins\neval\nX" + _counted(text) + b"o.",
        "eval by STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(X" + _counted(text) + b"tR.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"Pos.system\n.",
        "state of an object": b"cos\nsystem\n}b.",
    }
    one = reference(1, 1, 1, "a thing", split="val")
    sizes = {
        "a memo of 2^31 places": b"\x80\x02]r\xff\xff\xff\x7f.",
        "a memo place of 30 digits": b"]p" + b"9" * 30 + b"\n.",
        "a text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
        "a text of -1 bytes": b"T\xff\xff\xff\xffabc.",
        "a frame of 2^63 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"].",
        "a number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
        "ten million marks": b"(" * 10**7 + b".",
        "100,000 nested lists": b"]" * _DEEP + b"a" * (_DEEP - 1) + b".",
        "a list in itself": b"]q\x00h\x00a.",
        "cut short": pickle.dumps([one], 2)[:-9],
        "random bytes": bytes(range(256)) * 40,
        "empty": b"",
    }
    fields = {
        f"{name} of 60 doubled lists": _with(one, name, doubled) for name in one for doubled in [_doubled_pickle()]
    }
    fields |= {f"{name} of 2^40000": _with(one, name, pickle.dumps(2**40_000, 2)[2:-1]) for name in one}
    fields |= {f"{name} a list": pickle.dumps([{**one, name: [[1]]}], 2) for name in one}
    fields |= {f"{name} a lone surrogate": pickle.dumps([{**one, name: "\ud800"}], 2) for name in one}
    alike = {
        "a dict of whole numbers alike": pickle.dumps([{n * PRIME: 0 for n in range(20)}], 2),
        "a dict of 60,000 numbers of one hash": _dict_pickle(
            pickle.dumps(n * PRIME, 2)[2:-1] for n in range(NUM_ALIKE)
        ),
        "a dict of 65,536 tuples of one hash": _dict_pickle(
            b"(" + b"".join(b"J" + struct.pack("<i", -1 - (n >> bit & 1)) for bit in range(16)) + b"t"
            for n in range(2**16)
        ),
    }
    return {**calls, **named, **sizes, **fields, **alike}


def _counted(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _doubled_pickle() -> bytes:
    # a = []; a = [a, a]; … : sixty bytes that are 2^60 lists to whoever walks through them.
    return b"]" + b"".join(b"q%c0(h%ch%cl" % (n, n, n) for n in range(_LEVELS))


def _with(ref: dict[str, Any], name: str, value: bytes) -> bytes:
    """Return the pickle of one reference in which a field has the value that the instructions `value` build."""
    whole = pickle.dumps({key: each for key, each in ref.items() if key != name}, 2)[2:-1]
    key = b"X" + _counted(name)
    return b"\x80\x02](" + whole + key + value + b"se."


def _dict_pickle(keys: Any) -> bytes:
    return b"\x80\x02]}(" + b"".join(key + b"N" for key in keys) + b"ua."


def cocos() -> dict[str, bytes]:
    """Return COCO documents by what they do."""
    image, row = image_row(1, "train2014/0.png"), object_row(1, 1)
    alike = [image_row(n * PRIME, f"{n}.png") for n in range(NUM_ALIKE)]
    objects = [object_row(n * PRIME, 1) for n in range(NUM_ALIKE)]
    found = {
        "100,000 brackets": b"[" * _DEEP,
        "100,000 brackets in a list": b'{"images": [], "annotations": [' + b"[" * _DEEP + b"]" * _DEEP + b"]}",
        "900 brackets in an id": _nested(document([image], [{**row, "id": "NEST"}]), 900),
        "900 brackets in a file name": _nested(document([{**image, "file_name": "NEST"}], [row]), 900),
        "900 brackets in a segmentation": _nested(document([image], [{**row, "segmentation": "NEST"}]), 900),
        "60,000 images of one hash": document(alike, []),
        "60,000 objects of one hash": document([image], objects),
        "ids of 5,000 digits": document([image], [row]).replace(b'"id": 1', b'"id": ' + b"9" * 5000),
        "ids of 4,000 digits": document([image], [row]).replace(b'"id": 1', b'"id": ' + b"9" * 4000),
        "NaN and infinity": document([image], [{**row, "segmentation": [[float("nan"), float("inf")] * 4]}]),
        "numbers of 1e308": document([image], [{**row, "segmentation": [[1e308, -1e308] * 4], "bbox": [1e308] * 4}]),
        "RLE of 2^62 pixels": document([image], [{**row, "segmentation": {"size": [24, 32], "counts": [2**62]}}]),
        "RLE of a negative run": document([image], [{**row, "segmentation": {"size": [24, 32], "counts": [-5, 773]}}]),
        "RLE of 10 million runs": document(
            [image], [{**row, "segmentation": {"size": [24, 32], "counts": [0] * 10**7 + [768]}}]
        ),
        "RLE text that never ends": document(
            [image], [{**row, "segmentation": {"size": [24, 32], "counts": "\x7f" * 10**6}}]
        ),
        "a size of 2^20 squared": document(
            [{**image, "height": 2**20, "width": 2**20}],
            [{**row, "segmentation": {"size": [2**20, 2**20], "counts": [2**40]}}],
        ),
        "a path out of the folder": document([{**image, "file_name": "../../etc/passwd"}], [row]),
        "a file name with NUL": document([{**image, "file_name": "a\0.png"}], [row]),
        "a lone surrogate": document([{**image, "file_name": "\ud800.png"}], [row]),
        "UTF-16": document([image], [row]).decode().encode("utf-16"),
        "not JSON": b"\xff\xfe\x00",
        "empty": b"",
    }
    return found


def _nested(data: bytes, depth: int) -> bytes:
    return data.replace(b'"NEST"', b"[" * depth + b"1" + b"]" * depth)


def tables(column: str, values: Sequence[Any]) -> dict[str, Callable[[], bytes]]:
    """Return what makes Parquet tables by what they do; a sound one has `values` in `column`."""
    sound = pa.table({column: values})
    swaps: dict[str, pa.Array] = {
        "whole numbers": pa.array([1, 2]),
        "a list": pa.array([[b"a"], [b"b"]]),
        "a struct of structs": pa.array([{"bytes": {"bytes": b"a"}}]),
        "a map": pa.array([[(b"a", b"b")]], pa.map_(pa.binary(), pa.binary())),
        "null": pa.nulls(2),
        "a decimal": pa.array([1, 2]).cast(pa.decimal128(20)),
        "times": pa.array([1, 2], pa.timestamp("ns")),
        "booleans": pa.array([True, False]),
        "floats": pa.array([float("nan"), float("inf")]),
        "binary that is no UTF-8": pa.array([b"\xff\xfe", b"\xff"]),
        "a dictionary": pa.array(["a", "a"]).dictionary_encode(),
    }
    found: dict[str, Callable[[], bytes]] = {
        f"its column is {name}": lambda each=each: parquet_bytes({column: each}) for name, each in swaps.items()
    }
    return found | {
        "its column twice": lambda: parquet_bytes(pa.table([sound[column], sound[column]], names=[column, column])),
        "no rows": lambda: parquet_bytes(sound.slice(0, 0)),
        "no columns": lambda: parquet_bytes({}),
        "another column": lambda: parquet_bytes(sound.rename_columns(["other"])),
        "a million columns": lambda: footer_alone([_element("root", children=10**6), *[_element("c", kind=6)] * 10**6]),
        "100,000 nested groups": lambda: footer_alone(_deep(column, 100_000)),
        "5,000 nested groups": lambda: footer_alone(_deep(column, 5_000)),
        "-1 children": lambda: footer_alone([_element("root", children=-1), _element(column, kind=6)]),
        "2^31 children": lambda: footer_alone([_element("root", children=2**31 - 1), _element(column, kind=6)]),
        "2^60 rows, no row group": lambda: footer_alone([_element("r", children=1), _element(column, kind=6)], 2**60),
        "-1 rows": lambda: footer_alone([_element("root", children=1), _element(column, kind=6)], -1),
        "a footer of 2^31 bytes": lambda: parquet_bytes(sound)[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "its footer says another number of rows": lambda: _other_count(column, values[0]),
        "a billion equal values": lambda: many(column, values[0]),
        "a page of 600 MB": lambda: _bomb(column),
        "100 cuts": lambda: parquet_bytes(sound)[: len(parquet_bytes(sound)) // 2] + b"PAR1",
        "a schema of pickled types": lambda: parquet_bytes(
            sound.replace_schema_metadata({"ARROW:schema": "gASV" * 50, "pandas": "{" * 50_000})
        ),
    }


def many(column: str, value: Any, count: int = 2 * 10**8) -> bytes:
    """Return a table of very many equal values: a few kilobytes, for runs of equal values are one."""
    array = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int8()), pa.array([value]))
    table = pa.table({column: pa.chunked_array([array] * (count // 10**6))})
    return parquet_bytes(table, compression="zstd", row_group_size=count)


def _bomb(column: str) -> bytes:
    zeros = pa.array([bytes(600 * 2**20)], pa.large_binary())
    return parquet_bytes({column: zeros}, compression="zstd", use_dictionary=False, write_statistics=False)


def _other_count(column: str, value: Any) -> bytes:
    data = parquet_bytes({column: [value] * 12_345})
    # Zigzag: 24690 is 12,345, and 24689 is -12,345.
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:start] + data[start:].replace(_varint(2 * 12_345), _varint(2 * 12_345 - 1))


def footer_alone(schema: Sequence[bytes], num_rows: int = 0) -> bytes:
    """Return a Parquet file without row groups, of these elements of a schema."""
    footer = b"\x15" + _zigzag(2) + b"\x19" + b"\xfc" + _varint(len(schema)) + b"".join(schema)
    footer += b"\x16" + _zigzag(num_rows) + b"\x19\x0c" + b"\0"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _element(name: str, *, kind: int | None = None, children: int | None = None) -> bytes:
    # Thrift's compact form: type 1, repetition 3, name 4, children 5.
    head = b"" if kind is None else b"\x15" + _zigzag(kind)
    head += (b"\x35" if kind is None else b"\x25") + _zigzag(1) + b"\x18" + _varint(len(name)) + name.encode()
    return head + (b"" if children is None else b"\x15" + _zigzag(children)) + b"\0"


def _deep(column: str, depth: int) -> list[bytes]:
    groups = [_element("g", children=1)] * (depth - 1)
    return [_element("root", children=1), _element(column, children=1), *groups, _element("leaf", kind=6)]


def _zigzag(value: int) -> bytes:
    return _varint((value << 1) ^ (value >> 63) if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def truths() -> dict[str, bytes]:
    """Return JSON of any kind by what it does, for readers of smaller documents."""
    return {
        "100,000 brackets": b"[" * _DEEP,
        "100,000 objects": b'{"a":' * _DEEP,
        "a list": b"[]",
        "a number": b"1",
        "null": b"null",
        "NaN": b"NaN",
        "a number of 10,000 digits": b"9" * 10_000,
        "numbers in the place of all": json.dumps({"scene-000.png": 1, "images": 2, "objects": 3}).encode(),
        "not UTF-8": b'{"a": "\xff"}',
        "empty": b"",
    }
