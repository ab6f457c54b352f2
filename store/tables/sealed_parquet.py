"""A Parquet file that names the sha256 of its own bytes: a change of any byte is found, in its footer too."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from typing import BinaryIO, Final

import pyarrow as pa

from pseudoris.store.tables.parquet_files import parquet_bytes

_KEY: Final = "pseudoris.sha256"
_BLANK: Final = "0" * 64
# The key, then the type and the length of the value as Thrift's compact protocol writes them, then the value.
_SEAL: Final = re.compile(re.escape(_KEY.encode()) + rb"\x18\x40([0-9a-f]{64})")
# The metadata follow the row groups in the footer: only short fields stand between them and the end of the file.
_TAIL_BYTES: Final = 2**16
_BLOCK_BYTES: Final = 2**20


def sealed_parquet_bytes(row_groups: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Return `parquet_bytes` with the digest of the file, without these 64 digits, in the metadata of its footer."""
    data = parquet_bytes(row_groups, schema, {_KEY: _BLANK})
    place = data.rindex(_BLANK.encode())
    head, tail = data[:place], data[place + len(_BLANK) :]
    return head + hashlib.sha256(head + tail).hexdigest().encode() + tail


def is_intact(file: BinaryIO) -> bool | None:
    """Return whether the file has the digest that it names; None if it names none.

    One pass, a megabyte at a time. The file is left at its start.
    """
    start = max(file.seek(0, io.SEEK_END) - _TAIL_BYTES, 0)
    file.seek(start)
    matches = list(_SEAL.finditer(file.read()))
    file.seek(0)
    if not matches:
        return None
    left, digest = start + matches[-1].start(1), hashlib.sha256()
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        digest.update(block)
        left -= len(block)
    file.seek(len(_BLANK), io.SEEK_CUR)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest().encode() == matches[-1][1]
