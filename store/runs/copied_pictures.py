"""Finds the pictures of several runs that are copies of an earlier one, for `combine --unique`, and lists them.

    _left_out.parquet     columns key, run, copy_of, why

Called by `parents.py`. A copy has the bytes of a picture that stays; all tiles of a picture stay or go together. The
same runs give the same list, so a resume computes it again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import pyarrow as pa

from pseudoris.files.parquet_files import parquet_bytes
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PartRecord

LEFT_OUT_NAME: Final = "_left_out.parquet"
# What `picture_of` is made of.
PICTURE_COLUMNS: Final = ("image_id", "key", "sha256", "picture", "picture_sha256")
_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"doc": "Key that the image would have."}),
        pa.field("run", pa.string(), metadata={"doc": "Root of the run that it is in."}),
        pa.field("copy_of", pa.string(), metadata={"doc": "Key of the image that stays, or of a tile of it."}),
        pa.field("why", pa.string(), metadata={"doc": "`bytes`: they have the same bytes."}),
    ]
)


class LeftOutImage(NamedTuple):
    """An image that is not taken, and the one that is: their keys."""

    key: str
    run: str
    copy_of: str
    why: str = "bytes"


@dataclass(slots=True)
class LeftOutImages:
    """The images of some runs, numbered from 0, that are not taken.

    `ids` are theirs by the number of the run, `in_shards` how many there are by run and shard.
    """

    rows: list[LeftOutImage] = field(default_factory=list)
    ids: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    in_shards: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def of(cls, runs: Iterable[tuple[str, str, Iterable[tuple[int, pa.Table]]]]) -> LeftOutImages:
        """Return the copies in `runs`: of each its root, what stands before its keys, and its images by shard.

        The tables have `PICTURE_COLUMNS`. An image that could not be read has no bytes, and stays.
        """
        found, first = cls(), dict[bytes, tuple[int, str, str]]()
        for number, (root, prefix, shards) in enumerate(runs):
            for shard, table in shards:
                for row in table.to_pylist():
                    digest = row["picture_sha256"] or row["sha256"]
                    if digest is None:
                        continue
                    picture, key = row["picture"] or row["key"], f"{prefix}{row['key']}"
                    kept = first.setdefault(bytes.fromhex(digest), (number, picture, key))
                    if kept[:2] != (number, picture):
                        found.rows.append(LeftOutImage(key, root, kept[2]))
                        found.ids[number].add(row["image_id"])
                        found.in_shards[number, shard] += 1
        return found

    def file(self) -> tuple[PartRecord, bytes]:
        """Return the list as a file, and the record of it."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(_SCHEMA)
        arrays = [pa.array(each, pa.string()) for each in columns]
        data = parquet_bytes([pa.Table.from_arrays(arrays, schema=_SCHEMA)], _SCHEMA)
        rows = len(self.rows)
        return PartRecord(name=LEFT_OUT_NAME, rows=rows, size_bytes=len(data), sha256=sha256_hex(data)), data
